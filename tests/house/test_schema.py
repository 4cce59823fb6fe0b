"""The OpenAPI document is complete, and no request it allows makes the house fail."""

from django.core.management import call_command


def test_the_schema_is_generated_without_a_warning(tmp_path):
    file = tmp_path / "schema.yaml"

    call_command("spectacular", file=str(file), validate=True, fail_on_warn=True)

    assert "/api/threads/{thread_id}/messages/" in file.read_text()
