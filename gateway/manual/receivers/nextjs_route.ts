// A receiver in Next.js: put it at app/hooks/route.ts
// Needs `npm install standardwebhooks`, and WEBHOOK_SECRET: whsec_….
import { Webhook, WebhookVerificationError } from "standardwebhooks";

export const runtime = "nodejs"; // one process, which remembers the ids

type Data = { taskId: string; result: { resultUrls?: string[] } | null; failMsg: string | null; reason?: string };
type Event = { type: "task.succeeded" | "task.failed" | "task.abandoned"; data: Data };

// webhook-id → whether it is handled, or still being handled. Where several processes serve, or it must outlast this one: a
// table of your database with the id as its key, written in the transaction that does the work.
const ids = new Map<string, boolean>();
const REMEMBERED = 100_000;
const MAX_BODY = 64 * 1024 * 1024; // a result may hold images

// Do what is to be done once; an exception has the webhook come again.
async function handle({ type, data }: Event): Promise<void> {
  switch (type) {
    case "task.succeeded":
      return console.log("succeeded", data.taskId, ...[data.result?.resultUrls ?? []].flat());
    case "task.failed":
      return console.log("failed", data.taskId, data.failMsg);
    case "task.abandoned":
      return console.log("abandoned", data.taskId, data.reason);
  }
}

// As it came: the signature is of it, and not of what a parser makes of it. Null: it is larger than any webhook.
async function read(request: Request): Promise<string | null> {
  if (!request.body) return "";
  const reader = request.body.getReader();
  const decoder = new TextDecoder();
  let size = 0;
  let text = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    if (size > MAX_BODY) {
      await reader.cancel();
      return null;
    }
    text += decoder.decode(value, { stream: true });
  }
}

export async function POST(request: Request): Promise<Response> {
  const body = await read(request);
  if (body === null) return new Response("too large", { status: 413 });
  let event: Event;
  try {
    const webhook = new Webhook(process.env.WEBHOOK_SECRET ?? "");
    event = webhook.verify(body, Object.fromEntries(request.headers)) as Event;
  } catch (error) {
    return new Response(error instanceof WebhookVerificationError ? error.message : "not a signed webhook", { status: 401 });
  }
  const id = request.headers.get("webhook-id") ?? "";
  if (ids.has(id)) {
    // Handled: it is done. Being handled: it comes again, in case that fails.
    return ids.get(id)
      ? new Response(null, { status: 204 })
      : new Response(null, { status: 503, headers: { "retry-after": "5" } });
  }
  ids.set(id, false);
  try {
    await handle(event);
  } catch (error) {
    ids.delete(id);
    throw error; // Next.js answers 500
  }
  ids.set(id, true);
  const oldest = ids.keys().next();
  if (ids.size > REMEMBERED && !oldest.done) ids.delete(oldest.value);
  return new Response(null, { status: 204 });
}
