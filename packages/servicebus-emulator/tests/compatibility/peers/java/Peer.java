import com.azure.core.amqp.AmqpRetryOptions;
import com.azure.core.amqp.AmqpTransportType;
import com.azure.core.amqp.exception.AmqpException;
import com.azure.core.amqp.models.AmqpMessageBody;
import com.azure.core.exception.HttpResponseException;
import com.azure.core.util.BinaryData;
import com.azure.core.util.serializer.JacksonAdapter;
import com.azure.core.util.serializer.SerializerEncoding;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.messaging.servicebus.ServiceBusClientBuilder;
import com.azure.messaging.servicebus.ServiceBusException;
import com.azure.messaging.servicebus.ServiceBusFailureReason;
import com.azure.messaging.servicebus.ServiceBusMessage;
import com.azure.messaging.servicebus.ServiceBusProcessorClient;
import com.azure.messaging.servicebus.ServiceBusReceivedMessage;
import com.azure.messaging.servicebus.ServiceBusReceiverClient;
import com.azure.messaging.servicebus.ServiceBusSenderClient;
import com.azure.messaging.servicebus.ServiceBusSessionReceiverClient;
import com.azure.messaging.servicebus.administration.ServiceBusAdministrationClient;
import com.azure.messaging.servicebus.administration.ServiceBusAdministrationClientBuilder;
import com.azure.messaging.servicebus.administration.models.CorrelationRuleFilter;
import com.azure.messaging.servicebus.administration.models.CreateQueueOptions;
import com.azure.messaging.servicebus.administration.models.CreateRuleOptions;
import com.azure.messaging.servicebus.administration.models.CreateSubscriptionOptions;
import com.azure.messaging.servicebus.administration.models.EntityStatus;
import com.azure.messaging.servicebus.administration.models.RuleProperties;
import com.azure.messaging.servicebus.administration.models.SqlRuleAction;
import com.azure.messaging.servicebus.administration.models.SqlRuleFilter;
import com.azure.messaging.servicebus.models.AbandonOptions;
import com.azure.messaging.servicebus.models.DeadLetterOptions;
import com.azure.messaging.servicebus.models.DeferOptions;
import com.azure.messaging.servicebus.models.ServiceBusReceiveMode;
import com.azure.messaging.servicebus.models.SubQueue;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * Azure's SDK for Java, unmodified: what it finds in each scenario, one JSON object a line.
 *
 * <p>The connection string comes from the environment. Nothing here knows of the emulator; what has
 * to be found stands in tests/compatibility/test_peers.py, for all languages.
 */
public final class Peer {
  private static final String CONNECTION = System.getenv("SERVICEBUS_CONNECTION_STRING");

  /** In which a message has to come, a short lock before it included. */
  private static final Duration PATIENCE = Duration.ofSeconds(20);

  /** In which none may come. */
  private static final Duration NOTHING = Duration.ofSeconds(2);

  /** Azure's shortest. */
  private static final Duration SHORT_LOCK = Duration.ofSeconds(5);

  private static final ServiceBusAdministrationClient ADMIN =
      new ServiceBusAdministrationClientBuilder().connectionString(CONNECTION).buildClient();

  private interface Scenario {
    Map<String, Object> play() throws Exception;
  }

  private interface Action {
    void run() throws Exception;
  }

  private ServiceBusClientBuilder client = builder(CONNECTION);
  private final List<AutoCloseable> opened = new ArrayList<>();

  private static ServiceBusClientBuilder builder(String connection) {
    AmqpRetryOptions retry =
        new AmqpRetryOptions().setMaxRetries(1).setTryTimeout(Duration.ofSeconds(10));
    return new ServiceBusClientBuilder().connectionString(connection).retryOptions(retry);
  }

  /** The SDK's code for what an action fails with. */
  private static String refused(Action action) {
    try {
      action.run();
      return "nothing";
    } catch (Exception problem) {
      for (Throwable cause = problem; cause != null; cause = cause.getCause()) {
        if (cause instanceof HttpResponseException response) {
          return String.valueOf(response.getResponse().getStatusCode());
        }
        if (cause instanceof ServiceBusException known
            && known.getReason() != ServiceBusFailureReason.GENERAL_ERROR) {
          return String.valueOf(known.getReason());
        }
        if (cause instanceof AmqpException known && known.getErrorCondition() != null) {
          return String.valueOf(known.getErrorCondition());
        }
        if (cause instanceof UnsupportedOperationException) {
          return "unsupported"; // how the SDK says amqp:not-allowed and amqp:not-implemented
        }
      }
      return String.valueOf(problem);
    }
  }

  private static Map<String, Object> result(Object... pairs) {
    Map<String, Object> found = new LinkedHashMap<>();
    for (int at = 0; at < pairs.length; at += 2) {
      found.put((String) pairs[at], pairs[at + 1]);
    }
    return found;
  }

  private static List<Object> list(Object... items) {
    return Arrays.asList(items);
  }

  private static String queue(String name, CreateQueueOptions options) {
    return ADMIN.createQueue("java-" + name, options).getName();
  }

  private static String queue(String name) {
    return queue(name, new CreateQueueOptions());
  }

  private <T extends AutoCloseable> T keep(T closeable) {
    opened.add(closeable);
    return closeable;
  }

  private ServiceBusSenderClient sender(String queue) {
    return keep(client.sender().queueName(queue).buildClient());
  }

  private ServiceBusClientBuilder.ServiceBusReceiverClientBuilder of(String queue) {
    // It renews no lock by itself, and completes nothing.
    return client.receiver().queueName(queue).maxAutoLockRenewDuration(Duration.ZERO)
        .disableAutoComplete();
  }

  private ServiceBusReceiverClient receiver(String queue) {
    return keep(of(queue).buildClient());
  }

  private ServiceBusReceiverClient dead(String queue) {
    return keep(of(queue).subQueue(SubQueue.DEAD_LETTER_QUEUE).buildClient());
  }

  private static List<ServiceBusReceivedMessage> several(
      ServiceBusReceiverClient receiver, int count) {
    List<ServiceBusReceivedMessage> found = new ArrayList<>();
    while (found.size() < count) {
      int before = found.size();
      receiver.receiveMessages(count - before, PATIENCE).forEach(found::add);
      if (found.size() == before) {
        throw new IllegalStateException(before + " of " + count + " in " + receiver.getEntityPath());
      }
    }
    return found;
  }

  private static ServiceBusReceivedMessage one(ServiceBusReceiverClient receiver) {
    return several(receiver, 1).get(0);
  }

  private static boolean isEmpty(ServiceBusReceiverClient receiver) {
    return receiver.receiveMessages(1, NOTHING).stream().count() == 0;
  }

  private static List<String> bodies(Iterable<ServiceBusReceivedMessage> messages) {
    List<String> found = new ArrayList<>();
    messages.forEach(message -> found.add(message.getBody().toString()));
    return found;
  }

  private static List<ServiceBusReceivedMessage> peek(
      ServiceBusReceiverClient receiver, int count, long from) {
    return receiver.peekMessages(count, from).stream().collect(Collectors.toList());
  }

  private static void until(OffsetDateTime moment) throws InterruptedException {
    Thread.sleep(Math.max(0, Duration.between(OffsetDateTime.now(), moment).toMillis()));
  }

  private static long seconds(OffsetDateTime from, OffsetDateTime to) {
    return Math.round(Duration.between(from, to).toMillis() / 1000.0);
  }

  private static String state(ServiceBusReceivedMessage message) {
    return message.getState().toString().toLowerCase();
  }

  private Map<String, Object> administration() {
    String name = queue("administration",
        new CreateQueueOptions().setLockDuration(Duration.ofSeconds(30)).setMaxDeliveryCount(3));
    var made = ADMIN.getQueue(name);
    long before = made.getLockDuration().toSeconds();
    var changed = ADMIN.updateQueue(made.setLockDuration(Duration.ofSeconds(45)));
    sender(name).sendMessages(List.of(new ServiceBusMessage("1"), new ServiceBusMessage("2")));
    int active = ADMIN.getQueueRuntimeProperties(name).getActiveMessageCount();
    boolean listed = ADMIN.listQueues().stream().anyMatch(found -> found.getName().equals(name));
    String again = refused(() -> ADMIN.createQueue(name));
    boolean existed = ADMIN.getQueueExists(name);
    ADMIN.deleteQueue(name);
    return result(
        "lock_seconds", list(before, changed.getLockDuration().toSeconds()),
        "max_delivery_count", changed.getMaxDeliveryCount(),
        "active", active,
        "listed", listed,
        "again", again,
        "exists", list(existed, ADMIN.getQueueExists(name)),
        "missing", refused(() -> ADMIN.getQueue(name)));
  }

  private Map<String, Object> sending() {
    String name = queue("sending");
    var sender = sender(name);
    var receiver = receiver(name);
    var message = new ServiceBusMessage("single").setMessageId("id")
        .setCorrelationId("correlation").setSubject("subject").setContentType("text/plain")
        .setTo("to").setReplyTo("reply-to").setTimeToLive(Duration.ofMinutes(1));
    message.getApplicationProperties().putAll(
        Map.of("text", "é", "whole", 7, "real", 1.5, "yes", true));
    sender.sendMessage(message);
    var single = one(receiver);
    receiver.complete(single);
    var batch = sender.createMessageBatch();
    while (batch.tryAddMessage(
        new ServiceBusMessage(new byte[1024]).setMessageId("" + batch.getCount()))) {
      continue;
    }
    sender.sendMessages(batch);
    var received = several(receiver, batch.getCount());
    received.forEach(receiver::complete);
    sender.sendMessages(List.of(new ServiceBusMessage("a"), new ServiceBusMessage("b")));
    var pair = several(receiver, 2);
    byte[] sevens = new byte[200_000];
    Arrays.fill(sevens, (byte) 7);
    sender.sendMessage(new ServiceBusMessage(sevens));
    byte[] large = one(receiver).getBody().toBytes();
    var properties = single.getApplicationProperties();
    return result(
        "single", list(single.getBody().toString(), single.getMessageId(),
            single.getCorrelationId(), single.getSubject(), single.getContentType(),
            single.getTo(), single.getReplyTo()),
        "time_to_live", single.getTimeToLive().toSeconds(),
        "life", seconds(single.getEnqueuedTime(), single.getExpiresAt()),
        "properties", list(properties.get("text"), properties.get("whole"),
            properties.get("real"), properties.get("yes")),
        "delivery_count", single.getDeliveryCount(),
        "sequence_number", single.getSequenceNumber(),
        "state", state(single),
        "is_enqueued_now", Math.abs(seconds(single.getEnqueuedTime(), OffsetDateTime.now())) < 60,
        "batch_is_full", batch.getCount() > 200,
        "batch_in_order", IntStream.range(0, received.size())
            .allMatch(index -> received.get(index).getMessageId().equals("" + index)),
        "pair", bodies(pair),
        "large", list(large.length, Arrays.equals(large, sevens)));
  }

  private Map<String, Object> bodies() {
    String name = queue("bodies");
    var sender = sender(name);
    sender.sendMessage(new ServiceBusMessage(AmqpMessageBody.fromValue("text")));
    sender.sendMessage(new ServiceBusMessage(AmqpMessageBody.fromSequence(list(1L, "two"))));
    var both = several(receiver(name), 2);
    var value = both.get(0).getRawAmqpMessage().getBody();
    var sequence = both.get(1).getRawAmqpMessage().getBody();
    return result(
        "value", list(value.getBodyType().toString().toLowerCase(), value.getValue()),
        "sequence", list(sequence.getBodyType().toString().toLowerCase(),
            list(sequence.getSequence())));
  }

  private Map<String, Object> scheduling() {
    String name = queue("scheduling");
    var sender = sender(name);
    var receiver = receiver(name);
    // Links are opened before the time is set: that takes seconds on a busy machine.
    sender.cancelScheduledMessage(sender.scheduleMessage(
        new ServiceBusMessage("first"), OffsetDateTime.now().plusHours(1)));
    receiver.peekMessages(1, 0).stream().count();
    var later = OffsetDateTime.now().plusSeconds(8);
    List<Long> numbers = new ArrayList<>();
    sender.scheduleMessages(
        List.of(new ServiceBusMessage("kept"), new ServiceBusMessage("cancelled")), later)
        .forEach(numbers::add);
    var peeked = receiver.peekMessages(5).stream().map(Peer::state).collect(Collectors.toList());
    sender.cancelScheduledMessage(numbers.get(1));
    var message = one(receiver);
    long early = Duration.between(OffsetDateTime.now(), later).toMillis();
    return result(
        "peeked", peeked,
        "received", message.getBody().toString(),
        "is_another_number", message.getSequenceNumber() != numbers.get(0),
        "too_early_ms", Math.max(0, early),
        "enqueued_at", !message.getEnqueuedTime().isBefore(later.minusNanos(1_000_000)),
        "cancelled_again", refused(() -> sender.cancelScheduledMessage(numbers.get(1))));
  }

  private Map<String, Object> settlement() {
    String name = queue("settlement");
    var sender = sender(name);
    var receiver = receiver(name);
    var message = new ServiceBusMessage("abandoned");
    message.getApplicationProperties().put("old", 1);
    sender.sendMessage(message);
    receiver.abandon(one(receiver),
        new AbandonOptions().setPropertiesToModify(Map.of("tries", 1)));
    var abandoned = one(receiver);
    receiver.complete(abandoned);
    sender.sendMessage(new ServiceBusMessage("deferred"));
    var first = one(receiver);
    receiver.defer(first, new DeferOptions().setPropertiesToModify(Map.of("put", "aside")));
    boolean passed = isEmpty(receiver);
    String peeked = state(receiver.peekMessage());
    var deferred = receiver.receiveDeferredMessage(first.getSequenceNumber());
    receiver.complete(deferred);
    String gone = refused(() -> receiver.receiveDeferredMessage(first.getSequenceNumber()));
    sender.sendMessage(new ServiceBusMessage("dead"));
    receiver.deadLetter(one(receiver), new DeadLetterOptions().setDeadLetterReason("reason")
        .setDeadLetterErrorDescription("description")
        .setPropertiesToModify(Map.of("why", "more")));
    var dead = dead(name);
    var letter = one(dead);
    dead.complete(letter);
    var old = abandoned.getApplicationProperties();
    return result(
        "abandoned", list(abandoned.getBody().toString(), abandoned.getDeliveryCount(),
            old.get("tries"), old.get("old")),
        "deferred", list(passed, peeked, deferred.getBody().toString(),
            deferred.getApplicationProperties().get("put")),
        "deferred_again", gone,
        "dead_letter", list(letter.getBody().toString(), letter.getDeadLetterReason(),
            letter.getDeadLetterErrorDescription(), letter.getApplicationProperties().get("why")),
        "dead_letters_left", !isEmpty(dead),
        "left", !isEmpty(receiver));
  }

  private Map<String, Object> renewal() throws InterruptedException {
    String name = queue("renewal",
        new CreateQueueOptions().setLockDuration(Duration.ofSeconds(10)));
    sender(name).sendMessage(new ServiceBusMessage("renewed"));
    var receiver = receiver(name);
    var message = one(receiver);
    var first = message.getLockedUntil();
    until(first.minusSeconds(5));
    var renewed = receiver.renewMessageLock(message);
    until(first.plusNanos(500_000_000));
    boolean kept = isEmpty(receiver(name));
    receiver.renewMessageLock(message);
    receiver.complete(message);
    return result(
        "longer_by", seconds(first, renewed),
        "kept", kept,
        "empty", receiver.peekMessage() == null);
  }

  private Map<String, Object> expiry() {
    String name = queue("expiry",
        new CreateQueueOptions().setLockDuration(SHORT_LOCK).setMaxDeliveryCount(2));
    sender(name).sendMessage(new ServiceBusMessage("late"));
    var receiver = receiver(name);
    var first = one(receiver);
    var second = one(receiver);
    long late = Duration.between(first.getLockedUntil(), OffsetDateTime.now()).toMillis();
    String lost = refused(() -> receiver.complete(first));
    String notRenewed = refused(() -> receiver.renewMessageLock(first));
    var letter = one(dead(name));
    return result(
        "delivery_counts", list(first.getDeliveryCount(), second.getDeliveryCount(),
            letter.getDeliveryCount()),
        "late_ms", late,
        "lost", lost,
        "not_renewed", notRenewed,
        "reason", letter.getDeadLetterReason(),
        "is_one", first.getSequenceNumber() == second.getSequenceNumber());
  }

  private Map<String, Object> peeking() {
    String name = queue("peeking");
    sender(name).sendMessages(
        List.of("a", "b", "c").stream().map(ServiceBusMessage::new).collect(Collectors.toList()));
    var receiver = receiver(name);
    var all = peek(receiver, 10, 0);
    var from = peek(receiver, 1, all.get(1).getSequenceNumber());
    var beyond = peek(receiver, 5, all.get(2).getSequenceNumber() + 1);
    var emptying = keep(client.receiver().queueName(name)
        .receiveMode(ServiceBusReceiveMode.RECEIVE_AND_DELETE).buildClient());
    var deleted = several(emptying, 3);
    return result(
        "all", bodies(all),
        "from", bodies(from),
        "beyond", beyond.size(),
        "deleted", bodies(deleted),
        "left", peek(receiver, 1, all.get(0).getSequenceNumber()).size());
  }

  /** One client alone has a session's link once, and hands it out again, even a closed one. */
  private ServiceBusSessionReceiverClient another(String queue) {
    return keep(builder(CONNECTION).sessionReceiver().queueName(queue).buildClient());
  }

  private Map<String, Object> sessions() throws InterruptedException {
    String name = queue("sessions", new CreateQueueOptions().setSessionRequired(true));
    for (String words : List.of("a1", "b1", "a2")) {
      sender(name).sendMessage(new ServiceBusMessage(words).setSessionId(words.substring(0, 1)));
    }
    var accepting = keep(client.sessionReceiver().queueName(name)
        .maxAutoLockRenewDuration(Duration.ZERO).disableAutoComplete().buildClient());
    var a = accepting.acceptSession("a");
    String held = refused(() -> another(name).acceptSession("a"));
    var b = accepting.acceptNextSession();
    byte[] before = a.getSessionState();
    a.setSessionState("state".getBytes());
    var locked = a.renewSessionLock();
    Thread.sleep(10);
    var renewed = a.renewSessionLock();
    var messages = several(a, 2);
    messages.forEach(a::complete);
    var other = one(b);
    b.defer(other);
    var deferred = b.receiveDeferredMessage(other.getSequenceNumber());
    b.complete(deferred);
    int peeked = (int) a.peekMessages(5).stream().count();
    a.close();
    var again = keep(another(name).acceptSession("a"));
    String kept = new String(again.getSessionState());
    again.setSessionState(null);
    byte[] after = again.getSessionState();
    b.close();
    String without = refused(() -> receiver(name).receiveMessages(1, NOTHING).stream().count());
    var none = keep(client.sessionReceiver().queueName(queue("no-sessions")).buildClient());
    return result(
        "ids", list(a.getSessionId(), b.getSessionId()),
        "held", held,
        "states", list(before, kept, after),
        "renewed", renewed.isAfter(locked),
        "messages", bodies(messages),
        "other", list(other.getBody().toString(), deferred.getBody().toString(),
            deferred.getSessionId()),
        "peeked", peeked,
        "without_session", without,
        "wrong_mode", refused(() -> none.acceptSession("a")));
  }

  private Map<String, Object> sessionExpiry() throws InterruptedException {
    String name = queue("session-expiry",
        new CreateQueueOptions().setSessionRequired(true).setLockDuration(SHORT_LOCK));
    sender(name).sendMessage(new ServiceBusMessage("late").setSessionId("s"));
    var accepting = keep(client.sessionReceiver().queueName(name)
        .maxAutoLockRenewDuration(Duration.ZERO).disableAutoComplete().buildClient());
    var first = keep(accepting.acceptNextSession());
    var message = one(first);
    until(message.getLockedUntil().plusNanos(2_500_000_000L)); // by then it has been told
    String lost = refused(() -> first.complete(message));
    String notRenewed = refused(() -> first.renewSessionLock());
    var second = keep(accepting.acceptSession("s"));
    var again = one(second);
    second.complete(again);
    return result(
        "lost", lost,
        "not_renewed", notRenewed,
        "again", again.getBody().toString(),
        "delivery_count", again.getDeliveryCount());
  }

  private static ServiceBusMessage with(String body, String key, Object value) {
    var message = new ServiceBusMessage(body);
    message.getApplicationProperties().put(key, value);
    return message;
  }

  private ServiceBusReceiverClient of(String topic, String subscription, SubQueue subQueue) {
    return keep(client.receiver().topicName(topic).subscriptionName(subscription)
        .subQueue(subQueue).maxAutoLockRenewDuration(Duration.ZERO).disableAutoComplete()
        .buildClient());
  }

  private Map<String, Object> topics() {
    String topic = "java-topics";
    ADMIN.createTopic(topic);
    ADMIN.createSubscription(topic, "all");
    ADMIN.createSubscription(topic, "large", "above", new CreateSubscriptionOptions(),
        new CreateRuleOptions(new SqlRuleFilter("amount > 100"))
            .setAction(new SqlRuleAction("SET large = TRUE")));
    ADMIN.createSubscription(topic, "red");
    var paint = new CorrelationRuleFilter().setLabel("paint");
    paint.getProperties().put("color", "red");
    ADMIN.createRule(topic, "red", "red", new CreateRuleOptions(paint));
    ADMIN.deleteRule(topic, "red", "$Default");
    keep(client.sender().topicName(topic).buildClient()).sendMessages(List.of(
        with("small", "amount", 5), with("big", "amount", 500),
        with("paint", "color", "red").setSubject("paint")));
    var all = bodies(several(of(topic, "all", SubQueue.NONE), 3));
    Collections.sort(all);
    var large = one(of(topic, "large", SubQueue.NONE));
    var red = of(topic, "red", SubQueue.NONE);
    var found = one(red);
    red.deadLetter(found, new DeadLetterOptions().setDeadLetterReason("off"));
    var dead = one(of(topic, "red", SubQueue.DEAD_LETTER_QUEUE));
    var counts = ADMIN.getSubscriptionRuntimeProperties(topic, "all");
    var changed = ADMIN.updateTopic(ADMIN.getTopic(topic).setUserMetadata("about"));
    List<Object> rules = new ArrayList<>();
    for (RuleProperties rule : ADMIN.listRules(topic, "large")) {
      rules.add(list(rule.getName(), ((SqlRuleFilter) rule.getFilter()).getSqlExpression(),
          ((SqlRuleAction) rule.getAction()).getSqlExpression()));
    }
    return result(
        "all", all,
        "large", list(bodies(List.of(large)), large.getApplicationProperties().get("large")),
        "red", bodies(List.of(found)),
        "dead_letter", list(dead.getBody().toString(), dead.getDeadLetterReason()),
        "active", counts.getActiveMessageCount(),
        "updated", changed.getUserMetadata(),
        "rules", rules,
        "missing", refused(() -> ADMIN.getSubscription(topic, "none")));
  }

  private Map<String, Object> rules() {
    String topic = "java-rules";
    ADMIN.createTopic(topic);
    ADMIN.createSubscription(topic, "some");
    var manager = keep(client.ruleManager().topicName(topic).subscriptionName("some")
        .buildClient());
    manager.createRule("sql", new CreateRuleOptions(new SqlRuleFilter("a = 1"))
        .setAction(new SqlRuleAction("SET b = 2")));
    var paint = new CorrelationRuleFilter().setLabel("paint");
    paint.getProperties().put("color", "red");
    manager.createRule("red", new CreateRuleOptions(paint));
    String again = refused(() -> manager.createRule("red", new CreateRuleOptions(paint)));
    manager.deleteRule("$Default");
    String missing = refused(() -> manager.deleteRule("none"));
    Map<String, RuleProperties> found = new LinkedHashMap<>();
    manager.listRules().forEach(rule -> found.put(rule.getName(), rule));
    var sql = found.get("sql");
    var red = (CorrelationRuleFilter) found.get("red").getFilter();
    return result(
        "names", found.keySet().stream().sorted().collect(Collectors.toList()),
        "sql", list(((SqlRuleFilter) sql.getFilter()).getSqlExpression(),
            ((SqlRuleAction) sql.getAction()).getSqlExpression()),
        "red", list(red.getLabel(), red.getProperties().get("color")),
        "again", again,
        "missing", missing);
  }

  private Map<String, Object> processing() throws InterruptedException {
    String name = queue("processing", new CreateQueueOptions().setLockDuration(SHORT_LOCK));
    sender(name).sendMessages(IntStream.range(0, 20)
        .mapToObj(index -> new ServiceBusMessage("" + index)).collect(Collectors.toList()));
    List<ServiceBusReceivedMessage> seen = Collections.synchronizedList(new ArrayList<>());
    List<String> errors = Collections.synchronizedList(new ArrayList<>());
    var done = new CountDownLatch(20);
    ServiceBusProcessorClient processor = client.processor().queueName(name).maxConcurrentCalls(4)
        .processMessage(context -> {
          var message = context.getMessage();
          try { // The first takes longer than its lock, which the SDK renews.
            if (message.getBody().toString().equals("0")) {
              until(message.getLockedUntil().plusNanos(SHORT_LOCK.toNanos() / 2));
            }
          } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
          }
          seen.add(message);
          done.countDown();
        })
        .processError(context -> errors.add(String.valueOf(context.getException())))
        .buildProcessorClient();
    processor.start();
    boolean finished = done.await(PATIENCE.toSeconds(), TimeUnit.SECONDS);
    var receiver = receiver(name);
    var deadline = OffsetDateTime.now().plus(NOTHING); // the last is completed after its handler
    while (receiver.peekMessage(0) != null && OffsetDateTime.now().isBefore(deadline)) {
      Thread.sleep(50);
    }
    processor.close();
    return result(
        "seen", seen.stream().map(message -> Integer.valueOf(message.getBody().toString()))
            .sorted().collect(Collectors.toList()),
        "delivery_counts", seen.stream().mapToLong(ServiceBusReceivedMessage::getDeliveryCount)
            .max().orElse(-1),
        "errors", finished ? errors : list("not all in time", errors),
        "left", peek(receiver, 1, 0).size());
  }

  private Map<String, Object> refusals() {
    String name = queue("refusals");
    var sender = sender(name);
    String large = refused(() -> sender.sendMessage(
        new ServiceBusMessage(BinaryData.fromBytes(new byte[300_000]))));
    sender.sendMessage(new ServiceBusMessage("still usable"));
    String usable = one(receiver(name)).getBody().toString();
    ADMIN.updateQueue(ADMIN.getQueue(name).setStatus(EntityStatus.SEND_DISABLED));
    var message = new ServiceBusMessage("x");
    var stranger = keep(builder(
        CONNECTION.replaceAll("SharedAccessKey=[^;]*", "SharedAccessKey=d3Jvbmc="))
        .sender().queueName(name).buildClient());
    return result(
        "large", large,
        "usable", usable,
        "transaction", refused(sender::createTransaction),
        "disabled", refused(() -> sender(name).sendMessage(message)),
        "no_queue_to_send", refused(() -> sender("none").sendMessage(message)),
        "no_queue_to_receive",
        refused(() -> receiver("none").receiveMessages(1, PATIENCE).stream().count()),
        "stranger", refused(() -> stranger.sendMessage(message)));
  }

  private Map<String, Object> websockets() {
    String name = queue("websockets");
    client.transportType(AmqpTransportType.AMQP_WEB_SOCKETS);
    var receiver = receiver(name);
    sender(name).sendMessage(new ServiceBusMessage(new byte[200_000]));
    var message = one(receiver);
    receiver.complete(message);
    return result(
        "bytes", message.getBody().toBytes().length,
        "empty", receiver.peekMessage() == null);
  }

  private Map<String, Object> identity() {
    String name = queue("identity");
    String namespace = CONNECTION.replaceAll(".*sb://([^/;]+).*", "$1");
    var credential = new DefaultAzureCredentialBuilder().build();
    var found = new ServiceBusAdministrationClientBuilder().credential(namespace, credential)
        .buildClient().getQueue(name);
    client = new ServiceBusClientBuilder().credential(namespace, credential);
    var receiver = receiver(name);
    sender(name).sendMessage(new ServiceBusMessage("without a key"));
    var message = one(receiver);
    receiver.complete(message);
    return result(
        "queue_found", found.getName().equals(name),
        "body", message.getBody().toString());
  }

  private Map<String, Scenario> scenarios() {
    Map<String, Scenario> all = new LinkedHashMap<>();
    all.put("expiry", this::expiry);
    all.put("session_expiry", this::sessionExpiry);
    all.put("renewal", this::renewal);
    all.put("processing", this::processing);
    all.put("administration", this::administration);
    all.put("sending", this::sending);
    all.put("bodies", this::bodies);
    all.put("scheduling", this::scheduling);
    all.put("settlement", this::settlement);
    all.put("peeking", this::peeking);
    all.put("sessions", this::sessions);
    all.put("topics", this::topics);
    all.put("rules", this::rules);
    all.put("refusals", this::refusals);
    all.put("websockets", this::websockets);
    all.put("identity", this::identity);
    return all;
  }

  private static void say(String scenario) {
    Peer peer = new Peer();
    Map<String, Object> said = result("scenario", scenario);
    try {
      said.put("result", peer.scenarios().get(scenario).play());
      for (AutoCloseable closeable : peer.opened) {
        closeable.close();
      }
    } catch (Throwable problem) {
      said.put("error", Arrays.toString(problem.getStackTrace()) + problem);
    }
    try {
      System.out.println(JacksonAdapter.createDefaultSerializerAdapter()
          .serialize(said, SerializerEncoding.JSON));
    } catch (java.io.IOException problem) {
      throw new IllegalStateException(problem);
    }
  }

  public static void main(String[] asked) throws InterruptedException {
    ExecutorService together = Executors.newCachedThreadPool();
    for (String scenario :
        asked.length > 0 ? List.of(asked) : new Peer().scenarios().keySet()) {
      together.submit(() -> say(scenario));
    }
    together.shutdown();
    together.awaitTermination(2, TimeUnit.MINUTES);
    System.exit(0); // the SDK's threads would go on
  }
}
