"""Threads, as they are made and opened."""

import pytest
from django.forms.models import model_to_dict

from apps.conversations import services
from apps.conversations.models import Thread
from apps.conversations.source import JournalSource, ThreadNotFound


def test_a_new_thread_is_what_was_stored(bob, as_principal):
    made = services.create_thread(principal=as_principal(bob), title=" Costs ")

    stored = Thread.objects.get(pk=made.pk)
    columns = [field.attname for field in Thread._meta.concrete_fields]
    assert [getattr(made, name) for name in columns] == [getattr(stored, name) for name in columns]
    assert (made.title, made.last_seq, made.live_run, made.user) == ("Costs", 0, None, bob)
    made.title = "Renamed"
    made.save()  # it is known to be stored: no second one
    assert model_to_dict(Thread.objects.get())["title"] == "Renamed"


@pytest.mark.parametrize("stranger", ["alice", "charlie"])
def test_the_events_of_a_thread_are_for_who_made_it(request, bob, stranger, as_principal):
    thread = services.create_thread(principal=as_principal(bob))

    assert JournalSource().authorize(as_principal(bob), thread.pk) == 0
    with pytest.raises(ThreadNotFound):
        JournalSource().authorize(as_principal(request.getfixturevalue(stranger)), thread.pk)
