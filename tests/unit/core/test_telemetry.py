"""The metrics' registry."""

from prometheus_client import generate_latest

from gateway.core.telemetry import Metrics


def test_two_gateways_in_one_process_count_apart() -> None:
    """Each gateway has a registry of its own, so that a second one neither fails nor adds to the first."""
    first, second = Metrics(), Metrics()
    first.attempts.labels("delivered").inc()
    assert b'gateway_attempts_total{result="delivered"} 1.0' in b"".join(first.render())
    assert b'gateway_attempts_total{result="delivered"}' not in b"".join(second.render())


def test_an_attempt_at_its_time_limit_has_a_bucket() -> None:
    """What takes up to 30 s, as the longest attempt or poll usually may, is told apart from what took longer."""
    metrics = Metrics()
    metrics.poll_seconds.labels("up").observe(29)
    metrics.attempt_seconds.observe(14)
    text = b"".join(metrics.render()).decode()
    ours = [line for line in text.splitlines() if "process_" not in line]
    assert ours == [line for line in generate_latest(metrics.registry).decode().splitlines() if "process_" not in line]
    assert 'gateway_poll_seconds_bucket{le="15.0",upstream="up"} 0.0' in text
    assert 'gateway_poll_seconds_bucket{le="30.0",upstream="up"} 1.0' in text
    assert 'gateway_attempt_seconds_bucket{le="15.0"} 1.0' in text
