"""Spans and metrics for OpenTelemetry's collectors (OTLP): the only folder that knows its SDK, and only where asked."""
