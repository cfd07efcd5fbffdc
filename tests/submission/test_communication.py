"""Errors that say what was exchanged, and the count of what was sent."""

import pytest
import torch
import torch.distributed as dist

from submission.pytorch import communication
from submission.pytorch.communication import CommunicationError, Traffic, exchanging


class TestErrors:
    @pytest.mark.parametrize(
        'error',
        [
            RuntimeError('[gloo/transport/tcp/pair.cc:553] Connection closed by peer'),
            dist.DistBackendError('NCCL communicator was aborted'),
        ],
        ids=['gloo', 'nccl'],
    )
    def test_of_the_backend(self, error):
        with pytest.raises(CommunicationError) as found, exchanging('the weather'):
            raise error
        assert 'could not exchange the weather' in str(found.value)
        assert str(error) in str(found.value)
        assert found.value.__cause__ is error

    @pytest.mark.parametrize(
        'error', [RuntimeError('shapes do not fit'), ValueError('gloo')]
    )
    def test_others_pass_as_they_are(self, error):
        with pytest.raises(type(error)) as found, exchanging('the weather'):
            raise error
        assert found.value is error

    def test_the_innermost_name_counts(self):
        with (
            pytest.raises(CommunicationError, match='exchange one with'),
            exchanging('all'),
            exchanging('one'),
        ):
            raise RuntimeError('gloo')


class TestTraffic:
    def test_adds_up_by_name(self):
        traffic = Traffic()
        for what, n_bytes in (('a', 3), ('b', 5), ('a', 0)):
            traffic.record(what, n_bytes)
        assert traffic.calls == {'a': 2, 'b': 1}
        assert traffic.bytes_sent == {'a': 3, 'b': 5}
        traffic.clear()
        assert not traffic.calls
        assert not traffic.bytes_sent

    def test_a_single_process_sends_nothing(self, monkeypatch):
        monkeypatch.setattr(communication, 'traffic', Traffic())
        value = torch.ones(3)
        assert communication.all_reduce_sum(value, 'ones') is value
        assert not communication.traffic.calls

    def test_what_is_sent_is_counted(self, monkeypatch):
        monkeypatch.setattr(communication, 'traffic', Traffic())
        monkeypatch.setattr(communication, 'is_distributed', lambda: True)
        monkeypatch.setattr(communication, 'rank', lambda: 1)
        monkeypatch.setattr(dist, 'all_reduce', lambda value: value.mul_(2))
        monkeypatch.setattr(dist, 'broadcast', lambda value, source: None)
        value = torch.ones(3)
        doubled = communication.all_reduce_sum(value, 'sums')
        assert doubled.tolist() == [2, 2, 2]
        assert value.tolist() == [1, 1, 1]
        communication.broadcast(torch.ones(5, dtype=torch.float64), 1, 'mine')
        communication.broadcast(torch.ones(5, dtype=torch.float64), 0, 'theirs')
        assert communication.traffic.calls == {'sums': 1, 'mine': 1, 'theirs': 1}
        assert communication.traffic.bytes_sent == {'sums': 12, 'mine': 40, 'theirs': 0}
