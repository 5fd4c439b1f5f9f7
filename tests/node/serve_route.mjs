// Serves a route handler of Next.js without Next.js: node serve_route.mjs route.ts. It checks the file's types, takes them
// off, and hands each POST /hooks to the module's POST as a Request of the web, which is what Next.js calls it with.
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import ts from "typescript";

const [file] = process.argv.slice(2);
const options = {
  strict: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
  types: [],
  skipLibCheck: true,
};
// Next.js brings Node's types; of them the file needs this.
writeFileSync("process.d.ts", "declare const process: { env: Record<string, string | undefined> };");
const mistakes = ts.getPreEmitDiagnostics(ts.createProgram([file, "process.d.ts"], options));
for (const { file: where, messageText } of mistakes) {
  console.error(`${where?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
}
if (mistakes.length > 0) process.exit(1);

const { outputText } = ts.transpileModule(readFileSync(file, "utf8"), { compilerOptions: { ...options, noEmit: false } });
writeFileSync("route.mjs", outputText);
const route = await import(pathToFileURL("route.mjs"));

createServer(async (incoming, outgoing) => {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  let response = new Response(null, { status: 404 });
  if (incoming.url === "/hooks") {
    response = new Response(null, { status: 405 });
    if (incoming.method === "POST") {
      const init = { method: "POST", headers: incoming.headers, body: Buffer.concat(chunks) };
      response = await route.POST(new Request(`http://127.0.0.1${incoming.url}`, init));
    }
  }
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  outgoing.end(Buffer.from(await response.arrayBuffer()));
}).listen(Number(process.env.PORT), "127.0.0.1");
