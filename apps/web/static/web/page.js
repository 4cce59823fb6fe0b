// What every page can do: switch the theme, copy a text, ask before a form does something final, tell local times.

const root = document.documentElement;

function toggleTheme() {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // It lasts for this page then.
  }
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent.trim());
    button.textContent = "Copied";
  } catch {
    // Without the clipboard's permission (or https), the text is at least selected.
    getSelection().selectAllChildren(source);
    button.textContent = "Press Ctrl+C";
  }
}

/** Ask in a dialog; resolves to whether the person agreed. */
export function ask({ title, text, action }) {
  const dialog = document.createElement("dialog");
  dialog.className = "dialog";
  const form = document.createElement("form");
  form.method = "dialog";
  const heading = document.createElement("h2");
  heading.textContent = title;
  const sentence = document.createElement("p");
  sentence.textContent = text;
  const buttons = document.createElement("div");
  buttons.className = "row end";
  const keep = Object.assign(document.createElement("button"), { className: "button", textContent: "Cancel" });
  const go = Object.assign(document.createElement("button"), {
    className: "button danger",
    value: "yes",
    textContent: action,
  });
  buttons.append(keep, go);
  form.append(heading, sentence, buttons);
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  keep.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.copy) copy(button);
  if (button?.dataset.theme === "toggle") toggleTheme();
});

document.addEventListener("submit", async (event) => {
  const { confirm, confirmText, confirmAction } = event.target.dataset;
  if (!confirm || event.target.dataset.agreed) return;
  event.preventDefault();
  if (await ask({ title: confirm, text: confirmText ?? "", action: confirmAction ?? "Yes" })) {
    event.target.dataset.agreed = "yes";
    event.target.requestSubmit();
  }
});

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submit]")) event.target.form.requestSubmit();
});

/** Write every server time in the reader's own zone. */
export function tellTimes(within = document) {
  for (const time of within.querySelectorAll("time[datetime]:not([data-told])")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = at.toLocaleString();
    time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    time.dataset.told = "";
  }
}
tellTimes();
