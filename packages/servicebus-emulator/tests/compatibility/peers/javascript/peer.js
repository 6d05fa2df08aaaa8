/**
 * Azure's SDK for JavaScript, unmodified: what it finds in each scenario, one JSON object a line.
 *
 * The connection string comes from the environment. Nothing here knows of the emulator; what has to
 * be found stands in tests/compatibility/test_peers.py, for all languages.
 */

import { setTimeout as delay } from "node:timers/promises";

import { DefaultAzureCredential } from "@azure/identity";
import { ServiceBusAdministrationClient, ServiceBusClient } from "@azure/service-bus";
import webSocket from "ws";

const CONNECTION = process.env.SERVICEBUS_CONNECTION_STRING;
const PATIENCE = 20_000; // ms in which a message has to come, a short lock before it included
const NOTHING = 2_000; // ms in which none may come
const SHORT_LOCK = 5; // s, Azure's shortest
const RETRY = { retryOptions: { maxRetries: 1, retryDelayInMs: 100 } };

const admin = new ServiceBusAdministrationClient(CONNECTION);

const seconds = (duration) => Number(/^PT(?:(\d+)M)?(?:(\d+)S)?$/.exec(duration).slice(1)
  .reduce((sum, part) => sum * 60 + Number(part ?? 0), 0));

const until = (date, ms = 0) => delay(Math.max(0, date.getTime() - Date.now()) + ms);

/** The SDK's code for what `promise` fails with. */
async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    const [first] = error.errors ?? [error]; // of several attempts
    return first.code ?? `${first.name}: ${first.message}`;
  }
  return "nothing";
}

async function queue(name, options = {}) {
  const made = `javascript-${name}`;
  await admin.createQueue(made, options);
  return made;
}

async function one(receiver, maxWaitTimeInMs = PATIENCE) {
  const [message] = await receiver.receiveMessages(1, { maxWaitTimeInMs });
  if (message === undefined) throw new Error(`no message in ${receiver.entityPath}`);
  return message;
}

async function several(receiver, count) {
  const found = [];
  while (found.length < count) {
    const more = await receiver.receiveMessages(count - found.length, { maxWaitTimeInMs: PATIENCE });
    if (more.length === 0) throw new Error(`${found.length} of ${count} in ${receiver.entityPath}`);
    found.push(...more);
  }
  return found;
}

const bodies = (messages) => messages.map((message) => message.body);
const isEmpty = async (receiver) =>
  (await receiver.receiveMessages(1, { maxWaitTimeInMs: NOTHING })).length === 0;

/** A receiver that renews no lock by itself. */
const receiverOf = (client, ...names) => {
  const options = typeof names.at(-1) === "object" ? names.pop() : {};
  return client.createReceiver(...names, { maxAutoLockRenewalDurationInMs: 0, ...options });
};

const scenarios = {
  async administration(client) {
    const name = await queue("administration", { lockDuration: "PT30S", maxDeliveryCount: 3 });
    const made = await admin.getQueue(name);
    const changed = await admin.updateQueue({ ...made, lockDuration: "PT45S" });
    await client.createSender(name).sendMessages([{ body: 1 }, { body: 2 }]);
    const counts = await admin.getQueueRuntimeProperties(name);
    const listed = [];
    for await (const found of admin.listQueues()) listed.push(found.name);
    const again = await refused(admin.createQueue(name));
    const existed = await admin.queueExists(name);
    await admin.deleteQueue(name);
    return {
      lock_seconds: [seconds(made.lockDuration), seconds(changed.lockDuration)],
      max_delivery_count: changed.maxDeliveryCount,
      active: counts.activeMessageCount,
      listed: listed.includes(name),
      again,
      exists: [existed, await admin.queueExists(name)],
      missing: await refused(admin.getQueue(name)),
    };
  },

  async sending(client) {
    const name = await queue("sending");
    const sender = client.createSender(name);
    const receiver = receiverOf(client, name, { skipParsingBodyAsJson: true });
    await sender.sendMessages({
      body: Buffer.from("single"),
      messageId: "id",
      correlationId: "correlation",
      subject: "subject",
      contentType: "text/plain",
      to: "to",
      replyTo: "reply-to",
      timeToLive: 60_000,
      applicationProperties: { text: "é", whole: 7, real: 1.5, yes: true },
    });
    const single = await one(receiver);
    await receiver.completeMessage(single);
    const batch = await sender.createMessageBatch();
    let added = 0;
    while (batch.tryAddMessage({ body: Buffer.alloc(1024), messageId: `${added}` })) added += 1;
    await sender.sendMessages(batch);
    const received = await several(receiver, added);
    await Promise.all(received.map((message) => receiver.completeMessage(message)));
    await sender.sendMessages([{ body: Buffer.from("a") }, { body: Buffer.from("b") }]);
    const pair = await several(receiver, 2);
    await sender.sendMessages({ body: Buffer.alloc(200_000, 7) });
    const large = await one(receiver);
    const properties = single.applicationProperties;
    return {
      single: [single.body.toString(), single.messageId, single.correlationId, single.subject,
        single.contentType, single.to, single.replyTo],
      time_to_live: single.timeToLive / 1000,
      life: Math.round((single.expiresAtUtc - single.enqueuedTimeUtc) / 1000),
      properties: [properties.text, properties.whole, properties.real, properties.yes],
      delivery_count: single.deliveryCount,
      sequence_number: single.sequenceNumber.toNumber(),
      state: single.state,
      is_enqueued_now: Math.abs(Date.now() - single.enqueuedTimeUtc) < 60_000,
      batch_is_full: added > 200,
      batch_in_order: received.every((message, index) => message.messageId === `${index}`),
      pair: bodies(pair).map(String),
      large: [large.body.length, large.body.every((byte) => byte === 7)],
    };
  },

  async bodies(client) {
    const name = await queue("bodies");
    const sender = client.createSender(name);
    const receiver = receiverOf(client, name);
    await sender.sendMessages({ bodyType: "value", body: "text" });
    await sender.sendMessages({ bodyType: "sequence", body: [[1, "two"]] });
    const [value, sequence] = await several(receiver, 2);
    return {
      value: [value._rawAmqpMessage.bodyType, value.body],
      sequence: [sequence._rawAmqpMessage.bodyType, sequence.body],
    };
  },

  async scheduling(client) {
    const name = await queue("scheduling");
    const sender = client.createSender(name);
    const receiver = receiverOf(client, name);
    const later = new Date(Date.now() + 6_000);
    const [kept, cancelled] = await sender.scheduleMessages(
      [{ body: "kept" }, { body: "cancelled" }], later);
    const peeked = await receiver.peekMessages(5);
    await sender.cancelScheduledMessages(cancelled);
    const message = await one(receiver);
    const early = later - Date.now();
    const missing = await refused(sender.cancelScheduledMessages(cancelled));
    return {
      peeked: peeked.map((found) => found.state),
      received: message.body,
      is_another_number: !message.sequenceNumber.equals(kept),
      too_early_ms: Math.max(0, early),
      enqueued_at: message.enqueuedTimeUtc >= later - 1,
      cancelled_again: missing,
    };
  },

  async settlement(client) {
    const name = await queue("settlement");
    const sender = client.createSender(name);
    const receiver = receiverOf(client, name);
    await sender.sendMessages({ body: "abandoned", applicationProperties: { old: 1 } });
    await receiver.abandonMessage(await one(receiver), { tries: 1 });
    const abandoned = await one(receiver);
    await receiver.completeMessage(abandoned);
    await sender.sendMessages({ body: "deferred" });
    const first = await one(receiver);
    await receiver.deferMessage(first, { put: "aside" });
    const passed = await isEmpty(receiver);
    const state = (await receiver.peekMessages(1))[0].state;
    const [deferred] = await receiver.receiveDeferredMessages(first.sequenceNumber);
    await receiver.completeMessage(deferred);
    const gone = await refused(receiver.receiveDeferredMessages(first.sequenceNumber));
    await sender.sendMessages({ body: "dead" });
    await receiver.deadLetterMessage(await one(receiver), {
      deadLetterReason: "reason", deadLetterErrorDescription: "description", why: "more",
    });
    const dead = receiverOf(client, name, { subQueueType: "deadLetter" });
    const letter = await one(dead);
    await dead.completeMessage(letter);
    return {
      abandoned: [abandoned.body, abandoned.deliveryCount, abandoned.applicationProperties.tries,
        abandoned.applicationProperties.old],
      deferred: [passed, state, deferred.body, deferred.applicationProperties.put],
      deferred_again: gone,
      dead_letter: [letter.body, letter.deadLetterReason, letter.deadLetterErrorDescription,
        letter.applicationProperties.why],
      dead_letters_left: !(await isEmpty(dead)),
      left: !(await isEmpty(receiver)),
    };
  },

  async renewal(client) {
    const name = await queue("renewal", { lockDuration: "PT10S" });
    await client.createSender(name).sendMessages({ body: "renewed" });
    const receiver = receiverOf(client, name);
    const message = await one(receiver);
    const first = message.lockedUntilUtc;
    await until(first, -5_000);
    const renewed = await receiver.renewMessageLock(message);
    await until(first, 500);
    const left = await isEmpty(receiverOf(client, name));
    await receiver.renewMessageLock(message);
    await receiver.completeMessage(message);
    return {
      longer_by: Math.round((renewed - first) / 1000),
      kept: left,
      empty: (await receiver.peekMessages(1)).length === 0,
    };
  },

  async expiry(client) {
    const name = await queue("expiry", { lockDuration: `PT${SHORT_LOCK}S`, maxDeliveryCount: 2 });
    await client.createSender(name).sendMessages({ body: "late" });
    const receiver = receiverOf(client, name);
    const first = await one(receiver);
    const second = await one(receiver);
    const after = Date.now() - first.lockedUntilUtc;
    const lost = await refused(receiver.completeMessage(first));
    const notRenewed = await refused(receiver.renewMessageLock(first));
    const dead = receiverOf(client, name, { subQueueType: "deadLetter" });
    const letter = await one(dead);
    return {
      delivery_counts: [first.deliveryCount, second.deliveryCount, letter.deliveryCount],
      late_ms: after,
      lost,
      not_renewed: notRenewed,
      reason: letter.deadLetterReason,
      is_one: first.sequenceNumber.equals(second.sequenceNumber),
    };
  },

  async peeking(client) {
    const name = await queue("peeking");
    await client.createSender(name).sendMessages(["a", "b", "c"].map((body) => ({ body })));
    const receiver = receiverOf(client, name);
    const all = await receiver.peekMessages(10);
    const from = await receiver.peekMessages(1, { fromSequenceNumber: all[1].sequenceNumber });
    const beyond = await receiverOf(client, name).peekMessages(
      5, { fromSequenceNumber: all[2].sequenceNumber.add(1) });
    const emptying = receiverOf(client, name, { receiveMode: "receiveAndDelete" });
    const deleted = await several(emptying, 3);
    return {
      all: bodies(all),
      from: bodies(from),
      beyond: beyond.length,
      deleted: bodies(deleted),
      left: (await receiver.peekMessages(1, { fromSequenceNumber: all[0].sequenceNumber })).length,
    };
  },

  async sessions(client) {
    const name = await queue("sessions", { requiresSession: true });
    const sender = client.createSender(name);
    await sender.sendMessages([
      { body: "a1", sessionId: "a" }, { body: "b1", sessionId: "b" },
      { body: "a2", sessionId: "a" },
    ]);
    const a = await client.acceptSession(name, "a");
    const held = await refused(client.acceptSession(name, "a"));
    const b = await client.acceptNextSession(name);
    const before = await a.getSessionState();
    await a.setSessionState(Buffer.from("state"));
    const locked = a.sessionLockedUntilUtc;
    await delay(10);
    const renewed = await a.renewSessionLock();
    const messages = await several(a, 2);
    for (const message of messages) await a.completeMessage(message);
    const other = await one(b);
    await b.deferMessage(other);
    const [deferred] = await b.receiveDeferredMessages(other.sequenceNumber);
    await b.completeMessage(deferred);
    const peeked = await a.peekMessages(5);
    await a.close();
    const again = await client.acceptSession(name, "a");
    const state = await again.getSessionState();
    await again.setSessionState(null);
    const without = await refused(one(receiverOf(client, name)));
    return {
      ids: [a.sessionId, b.sessionId],
      held,
      states: [before ?? null, String(state), (await again.getSessionState()) ?? null],
      renewed: renewed > locked,
      messages: bodies(messages),
      other: [other.body, deferred.body, deferred.sessionId],
      peeked: peeked.length,
      without_session: without,
      wrong_mode: await refused(client.acceptSession(await queue("no-sessions"), "a")),
    };
  },

  async session_expiry(client) {
    const name = await queue("session-expiry",
      { requiresSession: true, lockDuration: `PT${SHORT_LOCK}S` });
    await client.createSender(name).sendMessages({ body: "late", sessionId: "s" });
    const first = await client.acceptNextSession(name, { maxAutoLockRenewalDurationInMs: 0 });
    const message = await one(first);
    await until(first.sessionLockedUntilUtc, 2_500); // by then it has been told
    const lost = await refused(first.completeMessage(message));
    const notRenewed = await refused(first.renewSessionLock());
    const second = await client.acceptSession(name, "s");
    const again = await one(second);
    await second.completeMessage(again);
    return { lost, not_renewed: notRenewed, again: again.body, delivery_count: again.deliveryCount };
  },

  async topics(client) {
    const topic = "javascript-topics";
    await admin.createTopic(topic);
    await admin.createSubscription(topic, "all");
    await admin.createSubscription(topic, "large", {
      defaultRuleOptions: {
        name: "above", filter: { sqlExpression: "amount > 100" },
        action: { sqlExpression: "SET large = TRUE" },
      },
    });
    await admin.createSubscription(topic, "red");
    await admin.createRule(topic, "red", "red", {
      subject: "paint", applicationProperties: { color: "red" },
    });
    await admin.deleteRule(topic, "red", "$Default");
    await client.createSender(topic).sendMessages([
      { body: "small", applicationProperties: { amount: 5 } },
      { body: "big", applicationProperties: { amount: 500 } },
      { body: "paint", subject: "paint", applicationProperties: { color: "red" } },
    ]);
    const all = receiverOf(client, topic, "all");
    const large = receiverOf(client, topic, "large");
    const red = receiverOf(client, topic, "red");
    const got = { all: await several(all, 3), large: await several(large, 1),
      red: await several(red, 1) };
    await red.deadLetterMessage(got.red[0], { deadLetterReason: "off" });
    const dead = await one(receiverOf(client, topic, "red", { subQueueType: "deadLetter" }));
    const counts = await admin.getSubscriptionRuntimeProperties(topic, "all");
    const changed = await admin.updateTopic({
      ...(await admin.getTopic(topic)), userMetadata: "about",
    });
    const rules = [];
    for await (const rule of admin.listRules(topic, "large")) rules.push(rule);
    return {
      all: bodies(got.all).sort(),
      large: [bodies(got.large), got.large[0].applicationProperties.large],
      red: bodies(got.red),
      dead_letter: [dead.body, dead.deadLetterReason],
      active: counts.activeMessageCount,
      updated: changed.userMetadata,
      rules: rules.map((rule) => [rule.name, rule.filter.sqlExpression, rule.action.sqlExpression]),
      missing: await refused(admin.getSubscription(topic, "none")),
    };
  },

  async rules(client) {
    const topic = "javascript-rules";
    await admin.createTopic(topic);
    await admin.createSubscription(topic, "some");
    const manager = client.createRuleManager(topic, "some");
    await manager.createRule("sql", { sqlExpression: "a = 1" }, { sqlExpression: "SET b = 2" });
    await manager.createRule("red", { subject: "paint", applicationProperties: { color: "red" } });
    const again = await refused(manager.createRule("red", { subject: "paint" }));
    await manager.deleteRule("$Default");
    const missing = await refused(manager.deleteRule("none"));
    const found = {};
    for await (const rule of manager.listRules()) found[rule.name] = rule;
    return {
      names: Object.keys(found).sort(),
      sql: [found.sql.filter.sqlExpression, found.sql.action.sqlExpression],
      red: [found.red.filter.subject, found.red.filter.applicationProperties.color],
      again,
      missing,
    };
  },

  async processing(client) {
    const name = await queue("processing", { lockDuration: `PT${SHORT_LOCK}S` });
    await client.createSender(name).sendMessages(
      Array.from({ length: 20 }, (_, index) => ({ body: index })));
    const receiver = client.createReceiver(name);
    const seen = [];
    const errors = [];
    let processor;
    await new Promise((resolve) => {
      processor = receiver.subscribe({
        // The first takes longer than its lock, which the SDK renews.
        processMessage: async (message) => {
          if (message.body === 0) await until(message.lockedUntilUtc, SHORT_LOCK * 500);
          seen.push(message);
          if (seen.length === 20) resolve();
        },
        processError: async (problem) => errors.push(problem.error.code ?? problem.error.message),
      }, { maxConcurrentCalls: 4 });
    });
    await processor.close();
    await receiver.close();
    return {
      seen: bodies(seen).sort((a, b) => a - b),
      delivery_counts: Math.max(...seen.map((message) => message.deliveryCount)),
      errors,
      left: (await receiverOf(client, name).peekMessages(1)).length,
    };
  },

  async websockets() {
    const name = await queue("websockets");
    const client = new ServiceBusClient(CONNECTION, { ...RETRY, webSocketOptions: { webSocket } });
    const receiver = receiverOf(client, name);
    await client.createSender(name).sendMessages({ body: Buffer.alloc(200_000) });
    const message = await one(receiver);
    await receiver.completeMessage(message);
    const left = await receiver.peekMessages(1);
    await client.close();
    return { bytes: message.body.length, empty: left.length === 0 };
  },

  async identity() {
    const name = await queue("identity");
    const namespace = /sb:\/\/([^/;]+)/.exec(CONNECTION)[1];
    const credential = new DefaultAzureCredential();
    const found = await new ServiceBusAdministrationClient(namespace, credential).getQueue(name);
    const client = new ServiceBusClient(namespace, credential, RETRY);
    const receiver = receiverOf(client, name);
    await client.createSender(name).sendMessages({ body: "without a key" });
    const message = await one(receiver);
    await receiver.completeMessage(message);
    await client.close();
    return { queue_found: found.name === name, body: message.body };
  },

  async refusals(client) {
    const name = await queue("refusals");
    const sender = client.createSender(name);
    const large = await refused(sender.sendMessages({ body: Buffer.alloc(300_000) }));
    await sender.sendMessages({ body: "still usable" });
    const usable = (await one(receiverOf(client, name))).body;
    await admin.updateQueue({ ...(await admin.getQueue(name)), status: "SendDisabled" });
    const disabled = await refused(client.createSender(name).sendMessages({ body: 1 }));
    const wrong = new ServiceBusClient(CONNECTION.replace(/SharedAccessKey=[^;]*/,
      "SharedAccessKey=d3Jvbmc="), RETRY);
    const stranger = await refused(wrong.createSender(name).sendMessages({ body: 1 }));
    await wrong.close();
    return {
      large,
      usable,
      disabled,
      no_queue_to_send: await refused(client.createSender("none").sendMessages({ body: 1 })),
      no_queue_to_receive: await refused(one(receiverOf(client, "none"), NOTHING)),
      stranger,
    };
  },
};

async function say(scenario) {
  const client = new ServiceBusClient(CONNECTION, RETRY);
  const said = { scenario };
  try {
    said.result = await scenarios[scenario](client);
  } catch (error) {
    said.error = error.stack;
  }
  await client.close();
  console.log(JSON.stringify(said));
}

const asked = process.argv.slice(2);
await Promise.all((asked.length ? asked : Object.keys(scenarios)).map(say));
