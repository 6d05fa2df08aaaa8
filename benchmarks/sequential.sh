#!/bin/sh
# What the pipeline does, by hand: the same tools and steps, one after the other. The benchmark
# sets the variables, so that both find the same tools, images and clusters.
set -eu
work=$(mktemp -d)
pids=""
cleanup() {
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  "$KIND" delete cluster --name "$GATE" --kubeconfig "$work/gate" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT INT TERM
gate() { "$KUBECTL" --kubeconfig "$work/gate" --context "kind-$GATE" "$@"; }
target() { "$KUBECTL" --kubeconfig "$TARGET_KUBECONFIG" --context "$TARGET_CONTEXT" "$@"; }
target_helm() {
  "$HELM" --kubeconfig "$TARGET_KUBECONFIG" --kube-context "$TARGET_CONTEXT" -n launch "$@"
}
forward() { # kubectl-function namespace resource local remote
  "$1" port-forward -n "$2" --address 127.0.0.1 "$3" "$4:$5" >"$work/forward-$4" 2>&1 &
  pids="$pids $!"
  tries=0
  until grep -q Forwarding "$work/forward-$4"; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { cat "$work/forward-$4"; echo "no way to $3"; exit 1; }
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

step back up
mkdir "$work/backups"
revision=$(target_helm history launch-inference -o yaml | grep revision | tail -1)
target_helm get values launch-inference >"$work/backups/helm-values-backup.yaml"
for name in model-engine model-engine-endpoint-builder; do
  target get deployment "$name" -n launch -o yaml >"$work/backups/$name.yaml"
done
target get deployment model-engine -n launch \
  -o jsonpath='{.spec.template.spec.containers[0].image}' >"$work/backups/current-image.txt"

step plan
target_helm get manifest launch-inference >"$work/live"
target_helm upgrade launch-inference "$CHART" --reuse-values --set "tag=$tag" --dry-run=server \
  >"$work/planned"
diff "$work/live" "$work/planned" >"$work/difference" || true

step upgrade
target_helm upgrade launch-inference "$CHART" --reuse-values --set "tag=$tag" --wait --timeout 10m \
  >/dev/null
for name in model-engine model-engine-endpoint-builder; do
  target rollout status -n launch "deployment/$name" --timeout 120s >/dev/null
done

step verify
tries=0
until [ "$(target get pods -n launch -l app=model-engine --no-headers | wc -l)" -eq 2 ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { target get pods -n launch; echo "old pods remain"; exit 1; }
  sleep 0.5
done
target get pods -n launch -o jsonpath='{range .items[*]}{.status.containerStatuses[0].imageID}{"\n"}{end}' \
  | grep -v "$digest" && { echo "a pod runs another image than $digest"; exit 1; }
cacher=false
prove target launch tests/e2e/test_complete_queue_timeout_flow.py
target logs -n launch -l app=model-engine --tail 100 >"$work/logs"
target_helm status launch-inference | grep -q 'STATUS: deployed'
step "promoted $digest, was ${revision#*: }"
