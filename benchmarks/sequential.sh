#!/bin/sh
# What the pipeline does, by hand: the same tools and steps, one after the other, evidence, prober
# and canary included. The benchmark sets the variables, so that both find the same tools, images
# and clusters.
set -eu
work=$(mktemp -d)
pids="" others=""
cleanup() {
  for pid in $pids $others; do kill "$pid" 2>/dev/null || true; done
  "$KIND" delete cluster --name "$GATE" --kubeconfig "$work/gate" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT INT TERM
gate() { "$KUBECTL" --kubeconfig "$work/gate" --context "kind-$GATE" "$@"; }
target() { "$KUBECTL" --kubeconfig "$TARGET_KUBECONFIG" --context "$TARGET_CONTEXT" "$@"; }
target_helm() {
  "$HELM" --kubeconfig "$TARGET_KUBECONFIG" --kube-context "$TARGET_CONTEXT" -n launch "$@"
}
forward() { # cluster namespace resource local remote
  case $1 in
    gate) set -- "$work/gate" "kind-$GATE" "$@" ;;
    *) set -- "$TARGET_KUBECONFIG" "$TARGET_CONTEXT" "$@" ;;
  esac
  config=$1 context=$2
  shift 3 # the program itself in the background, so that it is what is ended
  "$KUBECTL" --kubeconfig "$config" --context "$context" port-forward -n "$1" \
    --address 127.0.0.1 "$2" "$3:$4" >"$work/forward-$3" 2>&1 &
  pids="$pids $!"
  tries=0
  until grep -q Forwarding "$work/forward-$3"; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { cat "$work/forward-$3"; echo "no way to $2"; exit 1; }
    sleep 0.1
  done
}
prove() { # kubectl-function name pytest-arguments...
  where=$1 name=$2; shift 2
  forward "$where" launch svc/model-engine "$PORT" 80
  forward "$where" standins svc/servicebus $((PORT + 1)) 5672
  forward "$where" standins svc/servicebus $((PORT + 2)) 443
  where_key=$("$where" get secret standins -n standins -o jsonpath='{.data.servicebus_key}' | base64 -d)
  "$where" get secret standins -n standins -o jsonpath='{.data.ca\.crt}' | base64 -d >"$work/ca.pem"
  access="SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=$where_key;UseDevelopmentEmulator=true"
  cat >"$work/$name.json" <<JSON
{"name": "$name", "gateway_url": "http://127.0.0.1:$PORT", "image_version": "$tag",
 "health_paths": ["/health", "/healthz", "/readyz"], "cacher": $cacher,
 "servicebus": {"connection_string": "Endpoint=sb://localhost:$((PORT + 1));$access",
   "admin_connection_string": "Endpoint=sb://localhost:$((PORT + 2));$access",
   "ca_file": "$work/ca.pem"}}
JSON
  E2E_TARGET="$work/$name.json" "$PYTHON" -m pytest -q -p no:cacheprovider "$@"
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  pids=""
  PORT=$((PORT + 10))
}
step() { echo "$(date +%H:%M:%S) $*"; }

tag=$TAG_PREFIX-$(date -u +%Y%m%d-%H%M%S)
image=$REGISTRY/model-engine:$tag

step build and push
printf '{host{directory(path:"%s"){dockerBuild(buildArgs:[{name:"APP_VERSION",value:"%s"}]){publish(address:"%s",forcedCompression:Zstd)}}}}' \
  "$SOURCE" "$tag" "$image" | "$DAGGER" --silent query >"$work/published"
digest=$(grep -o 'sha256:[0-9a-f]*' "$work/published")

step cluster
"$KIND" create cluster --quiet --name "$GATE" --image "$NODE_IMAGE" --config "$KIND_CONFIG" \
  --kubeconfig "$work/gate" --wait 90s
until gate get serviceaccount default >/dev/null 2>&1; do sleep 0.3; done

step stand-ins
gate apply --server-side -f "$STANDINS" >/dev/null
for name in postgres redis servicebus; do
  gate rollout status -n standins "deployment/$name" --timeout 120s >/dev/null
done

step deploy
gate apply --server-side -f "$SERVICE_SECRETS" >/dev/null
"$HELM" --kubeconfig "$work/gate" --kube-context "kind-$GATE" -n launch upgrade --install \
  launch-inference "$CHART" --values "$VALUES" --set "tag=$tag" --wait --timeout 3m >/dev/null

step prove
cacher=true
prove gate gate tests/e2e -n "$WORKERS"

step evidence # stated, signed, attached to the image in its registry
repository=${image%:*}
name=${repository#*/}
{
  printf '{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"%s","digest":{"sha256":"%s"}}],' \
    "$repository" "${digest#sha256:}"
  printf '"predicateType":"https://in-toto.io/attestation/test-result/v0.1","predicate":{"result":"PASSED"}}'
} >"$work/statement"
openssl genpkey -algorithm ED25519 -out "$work/key" 2>/dev/null
openssl pkeyutl -sign -rawin -inkey "$work/key" -in "$work/statement" -out "$work/signature"
put() { # file: a blob of the repository
  where=$(curl -fsS -X POST -D - -o /dev/null "$REGISTRY_URL/v2/$name/blobs/uploads/" \
    | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  put_digest=sha256:$(sha256sum "$1" | cut -d" " -f1)
  case $where in *\?*) join="&" ;; *) join="?" ;; esac
  curl -fsS -X PUT --data-binary "@$1" -H "Content-Type: application/octet-stream" \
    "$where${join}digest=$put_digest" >/dev/null
}
cat "$work/statement" "$work/signature" >"$work/envelope"
put "$work/envelope"
layer=$put_digest
printf '{}' >"$work/empty"
put "$work/empty"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[{"mediaType":"application/vnd.in-toto+json","digest":"%s","size":%s}],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":1}}' \
  "$put_digest" "$layer" "$(wc -c <"$work/envelope")" "$digest" >"$work/referrer"
curl -fsS -X PUT --data-binary "@$work/referrer" \
  -H "Content-Type: application/vnd.oci.image.manifest.v1+json" \
  "$REGISTRY_URL/v2/$name/manifests/sha256-${digest#sha256:}" >/dev/null

step look # is the release fit to be changed?
revision=$(target_helm history launch-inference -o yaml | grep revision | tail -1)
target_helm status launch-inference | grep -q 'STATUS: deployed'
target_helm get manifest launch-inference >"$work/live"
target_helm get hooks launch-inference >"$work/hooks"
target_helm get values launch-inference >"$work/values"
target get hpa,serviceaccounts -n launch -o json >"$work/objects"
target get deployments,replicasets,pods,endpointslices -n launch -o json >"$work/before"
target get secret -n launch -l owner=helm,name=launch-inference -o json >"$work/stored"
service=/api/v1/namespaces/launch/services/http:model-engine:80/proxy
target get --raw "$service/openapi.json" >"$work/api-before"
curl -fsS -o /dev/null -H "Accept: application/vnd.oci.image.manifest.v1+json" \
  "$REGISTRY_URL/v2/$name/manifests/$tag"
old=$(target get deployment model-engine -n launch \
  -o jsonpath='{.spec.template.spec.containers[0].image}')
node=$(target get pods -n launch -l app=model-engine -o jsonpath='{.items[0].spec.nodeName}')

step pull # on the target's own node
target run "pull-$$" -n launch --image "$repository@$digest" --restart Never \
  --overrides "{\"spec\":{\"nodeName\":\"$node\"}}" --command -- true >/dev/null
target wait pod "pull-$$" -n launch --for jsonpath='{.status.phase}'=Succeeded --timeout 120s >/dev/null
target delete pod "pull-$$" -n launch --wait=false >/dev/null

step probe # requests at a steady rate, from inside
target run "probe-$$" -n launch --image "$old" --restart Never --command -- \
  python3 -c "$(cat "$PROBER")" model-engine.launch.svc 80 /readyz 20 5 >/dev/null
target wait pod "probe-$$" -n launch --for condition=Ready --timeout 60s >/dev/null
probed() { target logs "probe-$$" -n launch --tail 1 2>/dev/null; }
tries=0
until probed | grep -q '"answered": \([5-9]\|[1-9][0-9]\)'; do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || { probed; echo "the service does not answer"; exit 1; }
  sleep 0.1
done

step canary # tasks at a steady rate, each of which has to be executed once
"$KUBECTL" --kubeconfig "$TARGET_KUBECONFIG" --context "$TARGET_CONTEXT" proxy \
  --port "$((PORT + 5))" >/dev/null &
proxy=$!
others="$proxy"
api="http://127.0.0.1:$((PORT + 5))$service/v1"
ready() {
  tries=0
  until curl -fsS "$api/model-endpoints/canary-$$" 2>/dev/null | grep -q '"READY"'; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { echo "the canary's endpoint is not ready"; exit 1; }
    sleep 0.1
  done
}
json="Content-Type: application/json"
tries=0
until curl -fs -o /dev/null "http://127.0.0.1:$((PORT + 5))/version"; do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || { echo "no way to the target's API"; exit 1; }
  sleep 0.1
done
curl -fsS -H "$json" "$api/model-endpoints" -o /dev/null \
  -d "{\"name\": \"canary-$$\", \"queue_message_timeout_duration\": 30}"
ready
touch "$work/tasks"
while [ ! -e "$work/enough" ]; do
  curl -fsS -H "$json" "$api/model-endpoints/canary-$$/tasks" -d '{"seconds": 0.2}' >>"$work/tasks"
  echo >>"$work/tasks"
  sleep 0.5
done &
sender=$!
others="$others $sender"
done_() { # task
  tries=0
  until curl -fsS "$api/tasks/$1" | grep -q '"completed"'; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "task $1 is lost"; exit 1; }
    sleep 0.1
  done
}
ids() { grep -o '"task_id":"[^"]*"' "$work/tasks" | cut -d'"' -f4; }
until [ -n "$(ids)" ]; do sleep 0.1; done
done_ "$(ids | head -1)"

step back up
mkdir "$work/backups"
cp "$work/values" "$work/backups/helm-values-backup.yaml"
for deployment in model-engine model-engine-endpoint-builder; do
  target get deployment "$deployment" -n launch -o yaml >"$work/backups/$deployment.yaml"
done
echo "$old" >"$work/backups/current-image.txt"

step plan # rendered with nothing changed, with the new tag, and again: is it deterministic?
render() { target_helm upgrade launch-inference "$CHART" --reuse-values --dry-run=server "$@"; }
render >"$work/same"
render --set "tag=$tag" >"$work/planned"
render --set "tag=$tag" >"$work/again"
diff "$work/same" "$work/planned" >"$work/difference" || true
diff "$work/planned" "$work/again" >/dev/null || true

step upgrade # with the plan's other terminals beside it
"$KUBECTL" --kubeconfig "$TARGET_KUBECONFIG" --context "$TARGET_CONTEXT" \
  get pods -n launch -w >"$work/pods" 2>&1 &
others="$others $!"
"$KUBECTL" --kubeconfig "$TARGET_KUBECONFIG" --context "$TARGET_CONTEXT" \
  get events -n launch -w >"$work/events" 2>&1 &
others="$others $!"
target_helm upgrade launch-inference "$CHART" --reuse-values --set "tag=$tag" --wait --timeout 10m \
  >/dev/null
for deployment in model-engine model-engine-endpoint-builder; do
  target rollout status -n launch "deployment/$deployment" --timeout 120s >/dev/null
done

step judge the pods
tries=0
until [ "$(target get pods -n launch -l app=model-engine --no-headers | wc -l)" -eq 2 ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { target get pods -n launch; echo "old pods remain"; exit 1; }
  sleep 0.5
done
target get pods -n launch -l app=model-engine \
  -o jsonpath='{range .items[*]}{.status.containerStatuses[0].imageID}{"\n"}{end}' \
  | grep -v "$digest" && { echo "a pod runs another image than $digest"; exit 1; }
target_helm history launch-inference | tail -1 | grep -q deployed
target get serviceaccounts -n launch -o json >"$work/accounts"

step ask for health
healthy() {
  forward target launch svc/model-engine "$((PORT + 6))" 80
  for path in /health /healthz /readyz; do
    curl -fsS --max-time 1 "http://127.0.0.1:$((PORT + 6))$path" >/dev/null
  done
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  pids=""
  PORT=$((PORT + 10))
}
healthy
target get --raw "$service/openapi.json" >"$work/api-after"
diff "$work/api-before" "$work/api-after" >/dev/null || true

step prove on the target
cacher=false
prove target launch tests/e2e/test_complete_queue_timeout_flow.py

step account # for every request and every task
touch "$work/enough"
wait "$sender"
curl -fsS -X PUT -H "$json" "$api/model-endpoints/canary-$$" -o /dev/null \
  -d '{"queue_message_timeout_duration": 45}'
ready
for id in $(ids); do done_ "$id"; done
forward target standins svc/servicebus "$((PORT + 2))" 443
target get secret standins -n standins -o jsonpath='{.data.ca\.crt}' | base64 -d >"$work/ca.pem"
"$PYTHON" - "Endpoint=sb://localhost:$((PORT + 2));$access" "$work/ca.pem" <<'PY'
import sys
from azure.servicebus.management import ServiceBusAdministrationClient as Client
with Client.from_connection_string(sys.argv[1], connection_verify=sys.argv[2]) as client:
    for queue in client.list_queues():
        print(queue.name, queue.lock_duration)
PY
curl -fsS -X DELETE "$api/model-endpoints/canary-$$" -o /dev/null
tries=0
until probed | grep -q '"failed": 0,'; do
  tries=$((tries + 1))
  [ "$tries" -lt 5 ] || { probed; echo "requests were lost"; exit 1; }
  sleep 0.2
done
for pid in $others; do kill "$pid" 2>/dev/null || true; done
target delete pod "probe-$$" -n launch --wait=false >/dev/null

step verify
healthy
for pod in $(target get pods -n launch -l app=model-engine -o name); do
  target logs -n launch "$pod" --tail 2000 | grep -c ERROR >>"$work/errors" || true
done
target_helm status launch-inference | grep -q 'STATUS: deployed'

step remove the cluster
"$KIND" delete cluster --quiet --name "$GATE" --kubeconfig "$work/gate"
step "promoted $digest, was ${revision#*: }"
