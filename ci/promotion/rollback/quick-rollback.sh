#!/bin/sh
# Puts a Helm release back to what it was before a promotion. Needs helm or kubectl, nothing else.
# Recorded on @DATE@ for release @RELEASE@ in namespace @NAMESPACE@ (context @CONTEXT@).
set -eu

release=@Q_RELEASE@
namespace=@Q_NAMESPACE@
revision=@REVISION@
timeout=@TIMEOUT@
context=${ROLLBACK_CONTEXT:-@Q_CONTEXT@}
recorded_kubeconfig=@Q_KUBECONFIG@
kubeconfig=${ROLLBACK_KUBECONFIG:-}
with=auto
dry_run=no

usage() {
    cat <<'TEXT'
Usage: quick-rollback.sh [--dry-run] [--kubeconfig FILE] [--context NAME] [--with helm|kubectl]

Puts release @RELEASE@ in namespace @NAMESPACE@ back to revision @REVISION@, the one that was
deployed before the promotion, and waits until its pods are ready.

  --dry-run          print the commands, change nothing
  --kubeconfig FILE  cluster access; default: $ROLLBACK_KUBECONFIG, then the recorded file
                     @KUBECONFIG@
                     if it exists, then what kubectl uses by itself
  --context NAME     default: $ROLLBACK_CONTEXT, then @CONTEXT@
  --with TOOL        helm: roll the release back (the default where helm is found)
                     kubectl: put the recorded images back; Helm's record then still names the
                     newer revision until `helm rollback` is run
  --help             this text

Revision @REVISION@ serves (digest of the gateway's pods: @DIGEST@):
@IMAGES_TEXT@
TEXT
}

fail() {
    echo "quick-rollback: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=yes; shift ;;
        --kubeconfig) [ $# -ge 2 ] || fail "--kubeconfig needs a file"; kubeconfig=$2; shift 2 ;;
        --context) [ $# -ge 2 ] || fail "--context needs a name"; context=$2; shift 2 ;;
        --with) [ $# -ge 2 ] || fail "--with needs helm or kubectl"; with=$2; shift 2 ;;
        *) fail "unknown option $1 (see --help)" ;;
    esac
done

if [ -z "$kubeconfig" ] && [ -e "$recorded_kubeconfig" ]; then
    kubeconfig=$recorded_kubeconfig
fi
if [ -n "$kubeconfig" ] && [ ! -e "$kubeconfig" ]; then
    fail "there is no file $kubeconfig; name one with --kubeconfig"
fi

if [ "$with" = auto ]; then
    if command -v helm >/dev/null 2>&1; then
        with=helm
    elif command -v kubectl >/dev/null 2>&1; then
        with=kubectl
    else
        fail "neither helm nor kubectl is on the PATH"
    fi
fi

run() {
    echo "+ $*"
    [ "$dry_run" = yes ] || "$@"
}

with_helm() {
    if [ -n "$kubeconfig" ]; then
        run helm --kubeconfig "$kubeconfig" --kube-context "$context" --namespace "$namespace" "$@"
    else
        run helm --kube-context "$context" --namespace "$namespace" "$@"
    fi
}

with_kubectl() {
    if [ -n "$kubeconfig" ]; then
        run kubectl --kubeconfig "$kubeconfig" --context "$context" --namespace "$namespace" "$@"
    else
        run kubectl --context "$context" --namespace "$namespace" "$@"
    fi
}

# printf is the shell's own: nothing but helm or kubectl needs to be on the PATH.
printf '%s\n' @Q_GOAL@

case $with in
    helm)
        with_helm rollback "$release" "$revision" --wait --timeout "${timeout}s"
        ;;
    kubectl)
@SET_IMAGES@
@ROLLOUTS@
        ;;
    *) fail "--with is helm or kubectl, not $with" ;;
esac

[ "$dry_run" = yes ] && echo "nothing was changed (--dry-run)" || echo "done"
