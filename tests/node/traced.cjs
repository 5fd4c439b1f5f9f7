// An app that registers and a receiver of webhooks, each instrumented as OpenTelemetry's own pages show it: the HTTP
// instrumentation makes their spans and carries the trace context, and this code does neither.
//
//   node traced.cjs receiver               prints its URL, then answers POSTs until it is ended
//   node traced.cjs app GATEWAY HOOK TASK  registers a callback for the task, and prints the answer
//
// The collector is OTEL_EXPORTER_OTLP_ENDPOINT's.

const { resourceFromAttributes } = require("@opentelemetry/resources");
const { NodeTracerProvider, SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-node");
const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-proto");
const { HttpInstrumentation } = require("@opentelemetry/instrumentation-http");
const { trace } = require("@opentelemetry/api");

const [role, ...args] = process.argv.slice(2);
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": role }),
  spanProcessors: [new SimpleSpanProcessor(new OTLPTraceExporter())],
});
provider.register();
const instrumentation = new HttpInstrumentation();
instrumentation.setTracerProvider(provider);
instrumentation.enable();

const http = require("node:http"); // after it is instrumented
const tracer = trace.getTracer(role);

function receive() {
  const server = http.createServer((request, response) => {
    request.resume().on("end", () => {
      tracer.startActiveSpan("handle", (span) => {
        span.setAttribute("webhook.id", request.headers["webhook-id"]);
        span.end();
        response.writeHead(204).end();
      });
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
}

function register(gateway, callbackUrl, taskId) {
  tracer.startActiveSpan("order", (span) => {
    const options = { method: "POST", headers: { "content-type": "application/json" } };
    const request = http.request(`${gateway}/v1/callbacks`, options, (response) => {
      let text = "";
      response.setEncoding("utf-8").on("data", (part) => (text += part));
      response.on("end", async () => {
        span.end();
        await provider.forceFlush();
        await provider.shutdown();
        console.log(text);
      });
    });
    request.end(JSON.stringify({ taskId, callbackUrl }));
  });
}

if (role === "receiver") receive();
else register(...args);
