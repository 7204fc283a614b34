// Tests of the code on docs/other-languages.md, which cmd/backstop/nodejs_test.go
// puts beside this file, and for which it answers calls.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import net from "node:net";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { connect, errors } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
import { publish } from "./publish.mjs";
import { call } from "./call.mjs";

let nc;
before(async () => { nc = await connect({ servers: process.env.NATS_URL }); });
after(() => nc.close());

// cable returns the address of a way to NATS that can be cut and mended.
async function cable() {
  const { hostname, port } = new URL(process.env.NATS_URL);
  const plugs = new Set();
  let whole = true;
  const server = net.createServer((near) => {
    if (!whole) return near.destroy();
    const far = net.connect(Number(port), hostname);
    for (const [from, to] of [[near, far], [far, near]]) {
      plugs.add(from);
      from.pipe(to).on("error", () => to.destroy());
      from.on("close", () => plugs.delete(from));
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `127.0.0.1:${server.address().port}`,
    cut() { whole = false; plugs.forEach((plug) => plug.destroy()); },
    mend() { whole = true; },
    close() { this.cut(); server.close(); },
  };
}

test("the program prints what the page says", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["quiz.mjs"]);
  assert.equal(stdout, await readFile("quiz.txt", "utf8"));
});

test("an event is stored once, however often it is published", async () => {
  const first = await publish(jetstream(nc), "analytics", "quiz", "from-node", { event: "näme" });
  const again = await publish(jetstream(nc), "analytics", "quiz", "from-node", { event: "näme" });
  assert.equal(first.stream, "EVENTS_analytics");
  assert.equal(first.duplicate ?? false, false);
  assert.deepEqual([again.seq, again.duplicate], [first.seq, true]);
});

test("an event that nobody takes fails at once", async () => {
  await assert.rejects(publish(jetstream(nc), "nobody", "quiz", "lost", {}), (err) => !(err instanceof errors.TimeoutError));
});

test("a call carries its id and deadline", async () => {
  const reply = await call(nc, "echo", "quiz", { a: 1 }, { id: "call-1", timeout: 20_000 });
  assert.equal(reply.success, true);
  assert.equal(reply.source, "app");
  assert.equal(reply.requestId, "call-1");
  assert.deepEqual(reply.data, { payload: { a: 1 }, timeoutMs: "20000" });
});

test("a call makes an id and has 10 s, unless told otherwise", async () => {
  const reply = await call(nc, "echo", "quiz", {});
  assert.match(reply.requestId, /^[A-Za-z0-9_-]{1,64}$/);
  assert.equal(reply.data.timeoutMs, "10000");
});

test("an error is a reply", async () => {
  const reply = await call(nc, "quizAnswer", "shop", {});
  assert.equal(reply.success, false);
  assert.deepEqual([reply.error.code, reply.source, reply.reason], ["app_unavailable", "none", "circuit_open"]);
});

test("no Backstop says so at once", async () => {
  await assert.rejects(call(nc, "nobody", "quiz", {}, { timeout: 60_000 }),
    (err) => err instanceof errors.RequestError && err.isNoResponders());
});

test("no reply ends with the timeout", async () => {
  await assert.rejects(call(nc, "silent", "quiz", {}, { timeout: 50 }), (err) => err instanceof errors.TimeoutError);
});

test("a call whose connection is lost throws a TimeoutError", async () => {
  const way = await cable();
  const lost = await connect({ servers: way.url, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
  const asked = call(lost, "silent", "quiz", {}, { timeout: 1_000 });
  await nc.flush();
  way.cut();
  await assert.rejects(asked, (err) => err instanceof errors.TimeoutError);
  await lost.close();
  way.close();
});

test("an event published over a lost connection is stored when it is back", async () => {
  const way = await cable();
  const lost = await connect({ servers: way.url, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
  way.cut();
  const ack = publish(jetstream(lost), "analytics", "quiz", "outlived", {});
  setTimeout(() => way.mend(), 500);
  assert.equal((await ack).stream, "EVENTS_analytics");
  await lost.close();
  way.close();
});
