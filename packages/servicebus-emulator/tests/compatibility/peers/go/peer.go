// Azure's SDK for Go, unmodified: what it finds in each scenario, one JSON object a line.
//
// The connection string comes from the environment. Nothing here knows of the emulator; what has to
// be found stands in tests/compatibility/test_peers.py, for all languages.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	sb "github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
	"github.com/Azure/go-amqp"
	"github.com/coder/websocket"
)

const (
	patience  = 20 * time.Second // in which a message has to come, a short lock before it included
	nothing   = 2 * time.Second  // in which none may come
	shortLock = "PT5S"           // Azure's shortest
)

var connection = os.Getenv("SERVICEBUS_CONNECTION_STRING")

type result = map[string]any

// peer has one client for each scenario; a failed check ends the scenario by panic.
type peer struct {
	ctx    context.Context
	client *sb.Client
	admin  *admin.Client
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// code is the SDK's code for an error.
func code(err error) string {
	var known *sb.Error
	var response *azcore.ResponseError
	var condition *amqp.Error
	switch {
	case err == nil:
		return "nothing"
	case errors.As(err, &known):
		return string(known.Code)
	case errors.As(err, &condition):
		return string(condition.Condition)
	case errors.As(err, &response):
		return fmt.Sprint(response.StatusCode)
	}
	return err.Error()
}

func refused[T any](_ T, err error) string { return code(err) }

// told names a deadline that is always that far ahead, and keeps none of its own. The SDK tells the
// service to answer up to 1 % before the deadline (session_receiver.go,
// calculateAcceptNextSessionTimeout), and go-amqp sends nothing after it (conn.go, getWriteTimeout),
// the reply to the service's own detach included: on a busy machine a fixed moment wins that race,
// and the service's answer is never seen.
type told struct {
	context.Context
	ahead time.Duration
}

func (t told) Deadline() (time.Time, bool) { return time.Now().Add(t.ahead), true }

func seconds(duration *string) float64 {
	lower := strings.ToLower(strings.TrimPrefix(*duration, "PT"))
	return must(time.ParseDuration(lower)).Seconds()
}

func (p *peer) queue(name string, properties admin.QueueProperties) string {
	made := "go-" + name
	must(p.admin.CreateQueue(p.ctx, made, &admin.CreateQueueOptions{Properties: &properties}))
	return made
}

func (p *peer) sender(name string) *sb.Sender { return must(p.client.NewSender(name, nil)) }

func (p *peer) receiver(name string) *sb.Receiver {
	return must(p.client.NewReceiverForQueue(name, nil))
}

func (p *peer) dead(name string) *sb.Receiver {
	options := &sb.ReceiverOptions{SubQueue: sb.SubQueueDeadLetter}
	return must(p.client.NewReceiverForQueue(name, options))
}

func (p *peer) send(name string, messages ...*sb.Message) {
	sender := p.sender(name)
	for _, message := range messages {
		check(sender.SendMessage(p.ctx, message, nil))
	}
	check(sender.Close(p.ctx))
}

type receives interface {
	ReceiveMessages(context.Context, int, *sb.ReceiveMessagesOptions) ([]*sb.ReceivedMessage, error)
}

func (p *peer) several(receiver receives, count int) []*sb.ReceivedMessage {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	var found []*sb.ReceivedMessage
	for len(found) < count {
		found = append(found, must(receiver.ReceiveMessages(ctx, count-len(found), nil))...)
	}
	return found
}

func (p *peer) one(receiver receives) *sb.ReceivedMessage { return p.several(receiver, 1)[0] }

func (p *peer) isEmpty(receiver receives) bool {
	ctx, cancel := context.WithTimeout(p.ctx, nothing)
	defer cancel()
	found, err := receiver.ReceiveMessages(ctx, 1, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		check(err)
	}
	return len(found) == 0
}

func text(words string) *sb.Message { return &sb.Message{Body: []byte(words)} }

func bodies(messages []*sb.ReceivedMessage) []string {
	found := []string{}
	for _, message := range messages {
		found = append(found, string(message.Body))
	}
	return found
}

func until(moment time.Time) { time.Sleep(time.Until(moment)) }

func round(duration time.Duration) float64 { return math.Round(duration.Seconds()) }

func state(message *sb.ReceivedMessage) string {
	return map[sb.MessageState]string{
		sb.MessageStateActive: "active", sb.MessageStateDeferred: "deferred",
		sb.MessageStateScheduled: "scheduled",
	}[message.State]
}

func (p *peer) administration() result {
	name := p.queue("administration", admin.QueueProperties{
		LockDuration: to.Ptr("PT30S"), MaxDeliveryCount: to.Ptr(int32(3)),
	})
	made := must(p.admin.GetQueue(p.ctx, name, nil))
	wanted := made.QueueProperties
	wanted.LockDuration = to.Ptr("PT45S")
	changed := must(p.admin.UpdateQueue(p.ctx, name, wanted, nil))
	p.send(name, text("1"), text("2"))
	counts := must(p.admin.GetQueueRuntimeProperties(p.ctx, name, nil))
	var listed []string
	for pager := p.admin.NewListQueuesPager(nil); pager.More(); {
		for _, found := range must(pager.NextPage(p.ctx)).Queues {
			listed = append(listed, found.QueueName)
		}
	}
	again := refused(p.admin.CreateQueue(p.ctx, name, nil))
	must(p.admin.DeleteQueue(p.ctx, name, nil))
	gone := must(p.admin.GetQueue(p.ctx, name, nil))
	return result{
		"lock_seconds":       []float64{seconds(made.LockDuration), seconds(changed.LockDuration)},
		"max_delivery_count": changed.MaxDeliveryCount,
		"active":             counts.ActiveMessageCount,
		"listed":             slices.Contains(listed, name),
		"again":              again,
		"exists":             []bool{made.QueueName == name, gone != nil},
		"missing":            refused(p.admin.UpdateQueue(p.ctx, name, wanted, nil)),
	}
}

func (p *peer) sending() result {
	name := p.queue("sending", admin.QueueProperties{})
	sender, receiver := p.sender(name), p.receiver(name)
	check(sender.SendMessage(p.ctx, &sb.Message{
		Body: []byte("single"), MessageID: to.Ptr("id"), CorrelationID: to.Ptr("correlation"),
		Subject: to.Ptr("subject"), ContentType: to.Ptr("text/plain"), To: to.Ptr("to"),
		ReplyTo: to.Ptr("reply-to"), TimeToLive: to.Ptr(time.Minute),
		ApplicationProperties: map[string]any{"text": "é", "whole": 7, "real": 1.5, "yes": true},
	}, nil))
	single := p.one(receiver)
	check(receiver.CompleteMessage(p.ctx, single, nil))
	batch := must(sender.NewMessageBatch(p.ctx, nil))
	added := 0
	for ; ; added++ {
		message := &sb.Message{Body: make([]byte, 1024), MessageID: to.Ptr(fmt.Sprint(added))}
		if err := batch.AddMessage(message, nil); errors.Is(err, sb.ErrMessageTooLarge) {
			break
		} else {
			check(err)
		}
	}
	check(sender.SendMessageBatch(p.ctx, batch, nil))
	received := p.several(receiver, added)
	inOrder := true
	for index, message := range received {
		inOrder = inOrder && message.MessageID == fmt.Sprint(index)
		check(receiver.CompleteMessage(p.ctx, message, nil))
	}
	pair := must(sender.NewMessageBatch(p.ctx, nil))
	check(pair.AddMessage(text("a"), nil))
	check(pair.AddMessage(text("b"), nil))
	check(sender.SendMessageBatch(p.ctx, pair, nil))
	two := p.several(receiver, 2)
	check(sender.SendMessage(p.ctx, &sb.Message{Body: bytes.Repeat([]byte{7}, 200_000)}, nil))
	large := p.one(receiver)
	properties := single.ApplicationProperties
	return result{
		"single": []string{string(single.Body), single.MessageID, *single.CorrelationID,
			*single.Subject, *single.ContentType, *single.To, *single.ReplyTo},
		"time_to_live": single.TimeToLive.Seconds(),
		"life":         round(single.ExpiresAt.Sub(*single.EnqueuedTime)),
		"properties": []any{properties["text"], properties["whole"], properties["real"],
			properties["yes"]},
		"delivery_count":  single.DeliveryCount,
		"sequence_number": single.SequenceNumber,
		"state":           state(single),
		"is_enqueued_now": time.Since(*single.EnqueuedTime).Abs() < time.Minute,
		"batch_is_full":   added > 200,
		"batch_in_order":  inOrder,
		"pair":            bodies(two),
		"large":           []any{len(large.Body), bytes.Count(large.Body, []byte{7}) == 200_000},
	}
}

func (p *peer) bodies() result {
	name := p.queue("bodies", admin.QueueProperties{})
	sender, receiver := p.sender(name), p.receiver(name)
	for _, body := range []sb.AMQPAnnotatedMessageBody{
		{Value: "text"}, {Sequence: [][]any{{int64(1), "two"}}},
	} {
		check(sender.SendAMQPAnnotatedMessage(p.ctx, &sb.AMQPAnnotatedMessage{Body: body}, nil))
	}
	both := p.several(receiver, 2)
	return result{
		"value":    []any{"value", both[0].RawAMQPMessage.Body.Value},
		"sequence": []any{"sequence", both[1].RawAMQPMessage.Body.Sequence},
	}
}

func (p *peer) scheduling() result {
	name := p.queue("scheduling", admin.QueueProperties{})
	sender, receiver := p.sender(name), p.receiver(name)
	later := time.Now().Add(6 * time.Second)
	numbers := must(sender.ScheduleMessages(p.ctx,
		[]*sb.Message{text("kept"), text("cancelled")}, later, nil))
	states := []string{}
	for _, found := range must(receiver.PeekMessages(p.ctx, 5, nil)) {
		states = append(states, state(found))
	}
	check(sender.CancelScheduledMessages(p.ctx, numbers[1:], nil))
	message := p.one(receiver)
	early := time.Until(later)
	return result{
		"peeked":            states,
		"received":          string(message.Body),
		"is_another_number": *message.SequenceNumber != numbers[0],
		"too_early_ms":      max(0, early.Milliseconds()),
		"enqueued_at":       !message.EnqueuedTime.Before(later.Truncate(time.Millisecond)),
		"cancelled_again":   code(sender.CancelScheduledMessages(p.ctx, numbers[1:], nil)),
	}
}

func (p *peer) settlement() result {
	name := p.queue("settlement", admin.QueueProperties{})
	receiver := p.receiver(name)
	p.send(name, &sb.Message{
		Body: []byte("abandoned"), ApplicationProperties: map[string]any{"old": 1},
	})
	check(receiver.AbandonMessage(p.ctx, p.one(receiver), &sb.AbandonMessageOptions{
		PropertiesToModify: map[string]any{"tries": 1},
	}))
	abandoned := p.one(receiver)
	check(receiver.CompleteMessage(p.ctx, abandoned, nil))
	p.send(name, text("deferred"))
	first := p.one(receiver)
	check(receiver.DeferMessage(p.ctx, first, &sb.DeferMessageOptions{
		PropertiesToModify: map[string]any{"put": "aside"},
	}))
	passed := p.isEmpty(receiver)
	peeked := state(must(receiver.PeekMessages(p.ctx, 1, nil))[0])
	number := []int64{*first.SequenceNumber}
	deferred := must(receiver.ReceiveDeferredMessages(p.ctx, number, nil))[0]
	check(receiver.CompleteMessage(p.ctx, deferred, nil))
	gone := refused(receiver.ReceiveDeferredMessages(p.ctx, number, nil))
	p.send(name, text("dead"))
	check(receiver.DeadLetterMessage(p.ctx, p.one(receiver), &sb.DeadLetterOptions{
		Reason: to.Ptr("reason"), ErrorDescription: to.Ptr("description"),
		PropertiesToModify: map[string]any{"why": "more"},
	}))
	dead := p.dead(name)
	letter := p.one(dead)
	check(dead.CompleteMessage(p.ctx, letter, nil))
	return result{
		"abandoned": []any{string(abandoned.Body), abandoned.DeliveryCount,
			abandoned.ApplicationProperties["tries"], abandoned.ApplicationProperties["old"]},
		"deferred": []any{passed, peeked, string(deferred.Body),
			deferred.ApplicationProperties["put"]},
		"deferred_again": gone,
		"dead_letter": []any{string(letter.Body), letter.DeadLetterReason,
			letter.DeadLetterErrorDescription, letter.ApplicationProperties["why"]},
		"dead_letters_left": !p.isEmpty(dead),
		"left":              !p.isEmpty(receiver),
	}
}

func (p *peer) renewal() result {
	name := p.queue("renewal", admin.QueueProperties{LockDuration: to.Ptr("PT10S")})
	p.send(name, text("renewed"))
	receiver := p.receiver(name)
	message := p.one(receiver)
	first := *message.LockedUntil
	until(first.Add(-5 * time.Second))
	check(receiver.RenewMessageLock(p.ctx, message, nil))
	renewed := *message.LockedUntil
	until(first.Add(500 * time.Millisecond))
	kept := p.isEmpty(p.receiver(name))
	check(receiver.RenewMessageLock(p.ctx, message, nil))
	check(receiver.CompleteMessage(p.ctx, message, nil))
	return result{
		"longer_by": round(renewed.Sub(first)),
		"kept":      kept,
		"empty":     len(must(receiver.PeekMessages(p.ctx, 1, nil))) == 0,
	}
}

func (p *peer) expiry() result {
	name := p.queue("expiry", admin.QueueProperties{
		LockDuration: to.Ptr(shortLock), MaxDeliveryCount: to.Ptr(int32(2)),
	})
	p.send(name, text("late"))
	receiver := p.receiver(name)
	first := p.one(receiver)
	second := p.one(receiver)
	late := time.Since(*first.LockedUntil)
	lost := code(receiver.CompleteMessage(p.ctx, first, nil))
	notRenewed := code(receiver.RenewMessageLock(p.ctx, first, nil))
	letter := p.one(p.dead(name))
	return result{
		"delivery_counts": []uint32{first.DeliveryCount, second.DeliveryCount,
			letter.DeliveryCount},
		"late_ms":     late.Milliseconds(),
		"lost":        lost,
		"not_renewed": notRenewed,
		"reason":      letter.DeadLetterReason,
		"is_one":      *first.SequenceNumber == *second.SequenceNumber,
	}
}

func (p *peer) peeking() result {
	name := p.queue("peeking", admin.QueueProperties{})
	p.send(name, text("a"), text("b"), text("c"))
	receiver := p.receiver(name)
	all := must(receiver.PeekMessages(p.ctx, 10, nil))
	peek := func(count int, from int64) []*sb.ReceivedMessage {
		options := &sb.PeekMessagesOptions{FromSequenceNumber: &from}
		return must(receiver.PeekMessages(p.ctx, count, options))
	}
	from := peek(1, *all[1].SequenceNumber)
	beyond := peek(5, *all[2].SequenceNumber+1)
	emptying := must(p.client.NewReceiverForQueue(name, &sb.ReceiverOptions{
		ReceiveMode: sb.ReceiveModeReceiveAndDelete,
	}))
	deleted := p.several(emptying, 3)
	return result{
		"all": bodies(all), "from": bodies(from), "beyond": len(beyond),
		"deleted": bodies(deleted), "left": len(peek(1, *all[0].SequenceNumber)),
	}
}

func (p *peer) sessions() result {
	name := p.queue("sessions", admin.QueueProperties{RequiresSession: to.Ptr(true)})
	in := func(session, words string) *sb.Message {
		return &sb.Message{Body: []byte(words), SessionID: &session}
	}
	p.send(name, in("a", "a1"), in("b", "b1"), in("a", "a2"))
	a := must(p.client.AcceptSessionForQueue(p.ctx, name, "a", nil))
	held := refused(p.client.AcceptSessionForQueue(p.ctx, name, "a", nil))
	var listed []string
	for pager := p.client.NewListSessionsForQueuePager(name, nil); pager.More(); {
		listed = append(listed, must(pager.NextPage(p.ctx)).Sessions...)
	}
	b := must(p.client.AcceptNextSessionForQueue(p.ctx, name, nil))
	before := must(a.GetSessionState(p.ctx, nil))
	check(a.SetSessionState(p.ctx, []byte("state"), nil))
	locked := a.LockedUntil()
	time.Sleep(10 * time.Millisecond)
	check(a.RenewSessionLock(p.ctx, nil))
	messages := p.several(a, 2)
	for _, message := range messages {
		check(a.CompleteMessage(p.ctx, message, nil))
	}
	other := p.one(b)
	check(b.DeferMessage(p.ctx, other, nil))
	numbers := []int64{*other.SequenceNumber}
	deferred := must(b.ReceiveDeferredMessages(p.ctx, numbers, nil))[0]
	check(b.CompleteMessage(p.ctx, deferred, nil))
	peeked := must(a.PeekMessages(p.ctx, 5, nil))
	renewed := a.LockedUntil().After(locked)
	check(a.Close(p.ctx))
	again := must(p.client.AcceptSessionForQueue(p.ctx, name, "a", nil))
	kept := must(again.GetSessionState(p.ctx, nil))
	check(again.SetSessionState(p.ctx, nil, nil))
	brief, cancel := context.WithTimeout(p.ctx, nothing)
	defer cancel()
	without := refused(p.receiver(name).ReceiveMessages(brief, 1, nil))
	impatient := told{p.ctx, 3 * time.Second}
	check(b.Close(p.ctx))
	nobody := p.queue("no-messages", admin.QueueProperties{RequiresSession: to.Ptr(true)})
	sessionless := p.queue("no-sessions", admin.QueueProperties{})
	return result{
		"ids":             []string{a.SessionID(), b.SessionID()},
		"listed":          listed,
		"held":            held,
		"states":          []any{before, string(kept), must(again.GetSessionState(p.ctx, nil))},
		"renewed":         renewed,
		"messages":        bodies(messages),
		"other":           []any{string(other.Body), string(deferred.Body), deferred.SessionID},
		"peeked":          len(peeked),
		"without_session": without,
		"none_free":       refused(p.client.AcceptNextSessionForQueue(impatient, nobody, nil)),
		"wrong_mode":      refused(p.client.AcceptSessionForQueue(p.ctx, sessionless, "a", nil)),
	}
}

func (p *peer) sessionExpiry() result {
	name := p.queue("session-expiry", admin.QueueProperties{
		RequiresSession: to.Ptr(true), LockDuration: to.Ptr(shortLock),
	})
	p.send(name, &sb.Message{Body: []byte("late"), SessionID: to.Ptr("s")})
	first := must(p.client.AcceptNextSessionForQueue(p.ctx, name, nil))
	message := p.one(first)
	until(first.LockedUntil().Add(200 * time.Millisecond)) // once told, it tries for half a minute
	lost := code(first.CompleteMessage(p.ctx, message, nil))
	notRenewed := code(first.RenewSessionLock(p.ctx, nil))
	check(first.Close(p.ctx)) // it has taken the session again, of itself
	second := must(p.client.AcceptSessionForQueue(p.ctx, name, "s", nil))
	again := p.one(second)
	check(second.CompleteMessage(p.ctx, again, nil))
	return result{
		"lost": lost, "not_renewed": notRenewed, "again": string(again.Body),
		"delivery_count": again.DeliveryCount,
	}
}

func (p *peer) topics() result {
	const topic = "go-topics"
	must(p.admin.CreateTopic(p.ctx, topic, nil))
	for _, subscription := range []string{"all", "large", "red"} {
		must(p.admin.CreateSubscription(p.ctx, topic, subscription, nil))
	}
	for subscription, rule := range map[string]*admin.CreateRuleOptions{
		"large": {
			Name: to.Ptr("above"), Filter: &admin.SQLFilter{Expression: "amount > 100"},
			Action: &admin.SQLAction{Expression: "SET large = TRUE"},
		},
		"red": {
			Name: to.Ptr("red"), Filter: &admin.CorrelationFilter{
				Subject: to.Ptr("paint"), ApplicationProperties: map[string]any{"color": "red"},
			},
		},
	} {
		must(p.admin.CreateRule(p.ctx, topic, subscription, rule))
		must(p.admin.DeleteRule(p.ctx, topic, subscription, "$Default", nil))
	}
	with := func(words string, properties map[string]any) *sb.Message {
		return &sb.Message{Body: []byte(words), ApplicationProperties: properties}
	}
	paint := with("paint", map[string]any{"color": "red"})
	paint.Subject = to.Ptr("paint")
	p.send(topic, with("small", map[string]any{"amount": 5}),
		with("big", map[string]any{"amount": 500}), paint)
	of := func(subscription string, options *sb.ReceiverOptions) *sb.Receiver {
		return must(p.client.NewReceiverForSubscription(topic, subscription, options))
	}
	all := bodies(p.several(of("all", nil), 3))
	slices.Sort(all)
	large := p.one(of("large", nil))
	red := of("red", nil)
	found := p.one(red)
	check(red.DeadLetterMessage(p.ctx, found, &sb.DeadLetterOptions{Reason: to.Ptr("off")}))
	dead := p.one(of("red", &sb.ReceiverOptions{SubQueue: sb.SubQueueDeadLetter}))
	counts := must(p.admin.GetSubscriptionRuntimeProperties(p.ctx, topic, "all", nil))
	properties := must(p.admin.GetTopic(p.ctx, topic, nil)).TopicProperties
	properties.UserMetadata = to.Ptr("about")
	changed := must(p.admin.UpdateTopic(p.ctx, topic, properties, nil))
	rules := [][]any{}
	for pager := p.admin.NewListRulesPager(topic, "large", nil); pager.More(); {
		for _, rule := range must(pager.NextPage(p.ctx)).Rules {
			rules = append(rules, []any{rule.Name, rule.Filter.(*admin.SQLFilter).Expression,
				rule.Action.(*admin.SQLAction).Expression})
		}
	}
	none := must(p.admin.GetSubscription(p.ctx, topic, "none", nil))
	return result{
		"all":         all,
		"large":       []any{[]string{string(large.Body)}, large.ApplicationProperties["large"]},
		"red":         []string{string(found.Body)},
		"dead_letter": []any{string(dead.Body), dead.DeadLetterReason},
		"active":      counts.ActiveMessageCount,
		"updated":     changed.UserMetadata,
		"rules":       rules,
		"missing":     map[bool]string{true: "nothing", false: "found"}[none == nil],
	}
}

func (p *peer) websockets() result {
	name := p.queue("websockets", admin.QueueProperties{})
	options := &sb.ClientOptions{
		NewWebSocketConn: func(ctx context.Context, args sb.NewWebSocketConnArgs) (net.Conn, error) {
			asked := &websocket.DialOptions{Subprotocols: []string{"amqp"}}
			connection, _, err := websocket.Dial(ctx, args.Host, asked)
			if err != nil {
				return nil, err
			}
			return websocket.NetConn(p.ctx, connection, websocket.MessageBinary), nil
		},
	}
	client := must(sb.NewClientFromConnectionString(connection, options))
	defer client.Close(p.ctx)
	over := &peer{p.ctx, client, p.admin}
	over.send(name, &sb.Message{Body: make([]byte, 200_000)})
	receiver := over.receiver(name)
	message := p.one(receiver)
	check(receiver.CompleteMessage(p.ctx, message, nil))
	left := must(receiver.PeekMessages(p.ctx, 1, nil))
	return result{"bytes": len(message.Body), "empty": len(left) == 0}
}

func (p *peer) identity() result {
	name := p.queue("identity", admin.QueueProperties{})
	namespace, _, _ := strings.Cut(strings.TrimPrefix(connection, "Endpoint=sb://"), "/")
	credential := must(azidentity.NewDefaultAzureCredential(nil))
	administration := must(admin.NewClient(namespace, credential, nil))
	client := must(sb.NewClient(namespace, credential, nil))
	defer client.Close(p.ctx)
	own := &peer{p.ctx, client, administration}
	own.send(name, text("without a key"))
	receiver := own.receiver(name)
	message := p.one(receiver)
	check(receiver.CompleteMessage(p.ctx, message, nil))
	found := must(administration.GetQueue(p.ctx, name, nil))
	return result{
		"queue_found": found != nil && found.QueueName == name, "body": string(message.Body),
	}
}

func (p *peer) refusals() result {
	name := p.queue("refusals", admin.QueueProperties{})
	sender := p.sender(name)
	large := sender.SendMessage(p.ctx, &sb.Message{Body: make([]byte, 300_000)}, nil)
	check(sender.SendMessage(p.ctx, text("still usable"), nil))
	usable := p.one(p.receiver(name))
	properties := must(p.admin.GetQueue(p.ctx, name, nil)).QueueProperties
	properties.Status = to.Ptr(admin.EntityStatusSendDisabled)
	must(p.admin.UpdateQueue(p.ctx, name, properties, nil))
	parts := strings.Split(connection, ";")
	for index, part := range parts {
		if strings.HasPrefix(part, "SharedAccessKey=") {
			parts[index] = "SharedAccessKey=d3Jvbmc="
		}
	}
	wrong := must(sb.NewClientFromConnectionString(strings.Join(parts, ";"), nil))
	defer wrong.Close(p.ctx)
	to := func(client *sb.Client, name string) string {
		return code(must(client.NewSender(name, nil)).SendMessage(p.ctx, text("x"), nil))
	}
	return result{
		"large":               code(large),
		"usable":              string(usable.Body),
		"disabled":            to(p.client, name),
		"no_queue_to_send":    to(p.client, "none"),
		"no_queue_to_receive": refused(p.receiver("none").ReceiveMessages(p.ctx, 1, nil)),
		"stranger":            to(wrong, name),
	}
}

func say(out *json.Encoder, guard *sync.Mutex, scenario string, play func(*peer) result) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	said := result{"scenario": scenario}
	defer func() {
		if problem := recover(); problem != nil {
			said["error"] = fmt.Sprint(problem)
		}
		guard.Lock()
		defer guard.Unlock()
		check(out.Encode(said))
	}()
	client := must(sb.NewClientFromConnectionString(connection, &sb.ClientOptions{
		RetryOptions: sb.RetryOptions{MaxRetries: 1},
	}))
	defer client.Close(ctx)
	administration := must(admin.NewClientFromConnectionString(connection, nil))
	said["result"] = play(&peer{ctx, client, administration})
}

func main() {
	scenarios := map[string]func(*peer) result{
		"administration": (*peer).administration, "sending": (*peer).sending,
		"bodies": (*peer).bodies, "scheduling": (*peer).scheduling,
		"settlement": (*peer).settlement, "renewal": (*peer).renewal, "expiry": (*peer).expiry,
		"peeking": (*peer).peeking, "sessions": (*peer).sessions,
		"session_expiry": (*peer).sessionExpiry, "topics": (*peer).topics,
		"refusals": (*peer).refusals, "websockets": (*peer).websockets,
		"identity": (*peer).identity,
	}
	out := json.NewEncoder(os.Stdout)
	var all sync.WaitGroup
	var guard sync.Mutex
	for scenario, play := range scenarios {
		if len(os.Args) == 1 || slices.Contains(os.Args[1:], scenario) {
			all.Go(func() {
				say(out, &guard, scenario, play)
			})
		}
	}
	all.Wait()
}
