// Signs and verifies with the npm package standardwebhooks, so that a test can check our signatures against it.
// Reads JSON lines from stdin and prints one JSON line for each, in order; bodies are base64 of UTF-8 text:
//   {"do": "verify", "secret", "headers", "body"}         → {"verified": true} or {"verified": false, "problem"}
//   {"do": "sign", "secret", "id", "timestamp_s", "body"} → {"signature"}
import { createInterface } from "node:readline";
import { Webhook } from "standardwebhooks";

function answer(request) {
  const webhook = new Webhook(request.secret);
  const body = Buffer.from(request.body, "base64");
  if (request.do === "sign") {
    return { signature: webhook.sign(request.id, new Date(request.timestamp_s * 1000), body) };
  }
  try {
    webhook.verify(body, request.headers, { jsonParse: false });
    return { verified: true };
  } catch (error) {
    return { verified: false, problem: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(answer(JSON.parse(line))));
}
