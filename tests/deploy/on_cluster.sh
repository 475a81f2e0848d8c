#!/usr/bin/env bash
# The chart's whole life on the cluster of the current kubeconfig: install, helm test, read as a person
# without exec, culling on and off, another network, uninstall; then nothing may be left.
#   tests/deploy/on_cluster.sh docker.io/library/minerwatch:nightly
# Needs an administrator's rights, kubectl, helm and minerwatch. Makes and removes the namespace minerwatch.
set -euo pipefail
cd "$(dirname "$0")/../.."

image=${1:?name the image: REPOSITORY:TAG}
export PATH="$PWD/.venv/bin:$PATH"
for program in kubectl helm minerwatch; do
  command -v "$program" >/dev/null || { echo "$program is missing" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

reader='[{"kind": "ServiceAccount", "name": "reader", "namespace": "minerwatch"}]'
deploy() {
  helm upgrade --install minerwatch deploy/helm/minerwatch --namespace minerwatch --wait --timeout 5m \
    --set image.repository="${image%:*}" --set image.tag="${image##*:}" \
    --set-json onCall.subjects="$reader" "$@"
}
step() { echo "== $*" >&2; }

step "install and test"
kubectl create namespace minerwatch
kubectl label namespace minerwatch pod-security.kubernetes.io/enforce=privileged
deploy
helm test minerwatch --namespace minerwatch --timeout 5m  # its pod is gone by then: no --logs

step "read the agents as a person who may not exec"
kubectl create serviceaccount reader --namespace minerwatch
kubectl config view --minify --flatten --raw >"$work/reader"
token=$(kubectl create token reader --namespace minerwatch)
kubectl config --kubeconfig "$work/reader" set-credentials reader --token "$token"
kubectl config --kubeconfig "$work/reader" set-context --current --user reader
if kubectl --kubeconfig "$work/reader" auth can-i create pods/exec --namespace minerwatch; then
  echo "a person on call may exec into the agents" >&2
  exit 1
fi
minerwatch top --once --all-namespaces --kubeconfig "$work/reader" --agent-namespace minerwatch

step "culling on: the agents are bound to their nodes"
deploy --set config.culling.mode=dry-run --set-json 'config.culling.namespaces=["default"]' \
  --set-json 'config.culling.ladder=[{"actions": ["label", "delete"]}]'
if kubectl api-resources --api-group admissionregistration.k8s.io | grep -q ValidatingAdmissionPolicy; then
  kubectl get validatingadmissionpolicy minerwatch-own-node
  kubectl get validatingadmissionpolicybinding minerwatch-own-node
fi
minerwatch status --all-namespaces --agent-namespace minerwatch

step "an agent labels and deletes pods of its own node only"
read -r agent node <<<"$(kubectl get pods --namespace minerwatch -l app.kubernetes.io/component=agent \
  -o jsonpath='{.items[0].metadata.name} {.items[0].spec.nodeName}')"
kubectl config view --minify --flatten --raw >"$work/agent"
token=$(kubectl create token minerwatch --namespace minerwatch --bound-object-kind Pod --bound-object-name "$agent")
kubectl config --kubeconfig "$work/agent" set-credentials agent --token "$token"
kubectl config --kubeconfig "$work/agent" set-context --current --user agent
as_agent() { kubectl --kubeconfig "$work/agent" --namespace default --dry-run=server "$@"; }
pod_on() {
  kubectl apply --namespace default -f - >/dev/null <<EOF
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "minerwatch-on-$1"},
 "spec": {"nodeName": "$1", "containers": [{"name": "a", "image": "$image", "args": ["--version"]}]}}
EOF
  echo "minerwatch-on-$1"
}
own=$(pod_on "$node") other=$(pod_on no-such-node)
as_agent label pod "$own" a=b
as_agent delete pod "$own"
if kubectl get validatingadmissionpolicy minerwatch-own-node; then
  for request in "label pod $other a=b" "delete pod $other"; do
    # shellcheck disable=SC2086 # words of a command
    if as_agent $request; then
      echo "an agent may change a pod of another node: $request" >&2
      exit 1
    fi
  done
fi
kubectl delete pod "$own" "$other" --namespace default --now

step "culling off again: a Job releases what is held"
deploy

step "in the pod network"
deploy --set config.probes.execs=false
minerwatch top --once --all-namespaces --agent-namespace minerwatch

step "uninstall"
helm uninstall minerwatch --namespace minerwatch --wait --timeout 5m
left=$(kubectl get clusterroles,clusterrolebindings,priorityclasses -l app.kubernetes.io/instance=minerwatch -o name
       kubectl get daemonsets,configmaps,services,jobs -n minerwatch -l app.kubernetes.io/instance=minerwatch -o name)
kubectl delete namespace minerwatch --timeout 3m
[ -z "$left" ] || { echo "helm has left: $left" >&2; exit 1; }
