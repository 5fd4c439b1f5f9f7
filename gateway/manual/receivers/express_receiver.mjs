// A receiver in Express: node express_receiver.mjs
// Needs `npm install express standardwebhooks`, and WEBHOOK_SECRET: whsec_….
import express from "express";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
// webhook-id → whether it is handled, or still being handled. Where it must outlast this process: a table of your database
// with the id as its key, written in the transaction that does the work.
const ids = new Map();
const REMEMBERED = 100_000;

// Do what is to be done once; an exception has the webhook come again.
async function handle({ type, data }) {
  switch (type) {
    case "task.succeeded":
      return console.log("succeeded", data.taskId, ...[data.result?.resultUrls ?? []].flat());
    case "task.failed":
      return console.log("failed", data.taskId, data.failMsg);
    case "task.abandoned":
      return console.log("abandoned", data.taskId, data.reason);
  }
}

const app = express();

// The raw body: the signature is of these bytes, and not of what any parser makes of them. A result may hold images.
app.post("/hooks", express.raw({ type: () => true, limit: "64mb" }), async (request, response) => {
  let event;
  try {
    event = webhook.verify(request.body, request.headers);
  } catch (error) {
    return response.status(401).send(error instanceof WebhookVerificationError ? error.message : "not a signed webhook");
  }
  const id = request.headers["webhook-id"];
  if (ids.has(id)) {
    // Handled: it is done. Being handled: it comes again, in case that fails.
    return ids.get(id) ? response.sendStatus(204) : response.set("retry-after", "5").sendStatus(503);
  }
  ids.set(id, false);
  try {
    await handle(event);
  } catch (error) {
    ids.delete(id);
    throw error; // Express answers 500
  }
  ids.set(id, true);
  if (ids.size > REMEMBERED) ids.delete(ids.keys().next().value);
  response.sendStatus(204);
});

app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
