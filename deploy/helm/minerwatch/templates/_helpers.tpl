{{- define "minerwatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "minerwatch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "minerwatch.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "minerwatch.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "minerwatch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "minerwatch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "minerwatch.recommendedLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: minerwatch
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of every object: commonLabels replace recommended ones, but never those that select pods. */}}
{{- define "minerwatch.labels" -}}
{{- $selector := include "minerwatch.selectorLabels" . | fromYaml }}
{{- merge $selector .Values.commonLabels (include "minerwatch.recommendedLabels" . | fromYaml) | toYaml }}
{{- end }}

{{/* Fail if an entry of a list keyed by name is there twice: server-side apply refuses such a list. */}}
{{- define "minerwatch.requireUnique" -}}
{{- $names := .own }}
{{- range .extra }}
{{- $name := get . $.key }}
{{- if has $name $names }}
{{- fail (printf "%s: %s %q is used already: remove it" $.where $.key $name) }}
{{- end }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}

{{- define "minerwatch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "minerwatch.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "minerwatch.priorityClassName" -}}
{{- if .Values.priorityClassName }}
{{- .Values.priorityClassName }}
{{- else if .Values.priorityClass.create }}
{{- include "minerwatch.fullname" . }}
{{- end }}
{{- end }}

{{- define "minerwatch.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* Whether a probe is asked for: "true" or "". What is not set has the agent's own default. */}}
{{- define "minerwatch.hostNetwork" -}}
{{- if kindIs "bool" .Values.hostNetwork }}
{{- if .Values.hostNetwork }}true{{ end }}
{{- else if or (dig "probes" "execs" true .Values.config) (include "minerwatch.firstWords" .) }}true{{ end }}
{{- end }}
{{- define "minerwatch.firstWords" -}}
{{- if dig "probes" "first_words" false .Values.config }}true{{ end }}
{{- end }}
{{/* Exec events come to the host's network only. */}}
{{- define "minerwatch.execs" -}}
{{- if and (include "minerwatch.hostNetwork" .) (dig "probes" "execs" true .Values.config) }}true{{ end }}
{{- end }}
{{- define "minerwatch.tasks" -}}
{{- if dig "probes" "tasks" true .Values.config }}true{{ end }}
{{- end }}
{{- define "minerwatch.executedCode" -}}
{{- if dig "probes" "executed_code" true .Values.config }}true{{ end }}
{{- end }}
{{- define "minerwatch.opensFiles" -}}
{{- if or (dig "probes" "connections" true .Values.config) (dig "probes" "content" true .Values.config) (include "minerwatch.executedCode" .) }}true{{ end }}
{{- end }}
{{- define "minerwatch.readsMemory" -}}
{{- if or (include "minerwatch.opensFiles" .) (dig "probes" "mappings" true .Values.config) }}true{{ end }}
{{- end }}

{{- define "minerwatch.asksCluster" -}}
{{- if ne (toString (dig "kubernetes" "enabled" true .Values.config)) "false" }}true{{ end }}
{{- end }}
{{- define "minerwatch.sendsEvents" -}}
{{- if and (include "minerwatch.asksCluster" .) (dig "kubernetes" "events" true .Values.config) }}true{{ end }}
{{- end }}

{{- define "minerwatch.culls" -}}
{{- $mode := toString (dig "culling" "mode" "off" .Values.config) }}
{{- if not (has $mode (list "off" "false")) }}true{{ end }}
{{- end }}

{{/* The actions that the ladder names, as a JSON list; none where culling is off. */}}
{{- define "minerwatch.actions" -}}
{{- $actions := list }}
{{- if include "minerwatch.culls" . }}
{{- range dig "culling" "ladder" (list (dict "actions" (list "label"))) .Values.config }}
{{- $actions = concat $actions .actions }}
{{- end }}
{{- end }}
{{- $actions | uniq | sortAlpha | toJson }}
{{- end }}

{{/* The agents ask a JupyterHub to stop servers. */}}
{{- define "minerwatch.asksHub" -}}
{{- if and (include "minerwatch.culls" .) (dig "culling" "hub" "url" "" .Values.config) }}true{{ end }}
{{- end }}

{{/* The ConfigMap of bans and notices, NAMESPACE/NAME, where the agents keep one. */}}
{{- define "minerwatch.bans" -}}
{{- if include "minerwatch.culls" . }}{{ dig "culling" "bans" "config_map" "" .Values.config }}{{ end }}
{{- end }}

{{/* Capabilities of what is switched on, and no others, as a JSON list. */}}
{{- define "minerwatch.capabilities" -}}
{{- $capabilities := list }}
{{- if .Values.readProcesses }}
{{- $capabilities = append $capabilities "SYS_PTRACE" }}
{{- else if include "minerwatch.readsMemory" . }}
{{- fail "readProcesses: false takes SYS_PTRACE away: switch off config.probes.connections, .mappings, .executed_code and .content, too" }}
{{- end }}
{{- if include "minerwatch.opensFiles" . }}
{{- $capabilities = append $capabilities "DAC_READ_SEARCH" }}
{{- end }}
{{- if include "minerwatch.firstWords" . }}
{{- if not (include "minerwatch.hostNetwork" .) }}
{{- fail "hostNetwork: false takes the host's packets away: switch off config.probes.first_words, too" }}
{{- end }}
{{- $capabilities = append $capabilities "NET_RAW" }}
{{- end }}
{{- if or (include "minerwatch.tasks" .) (include "minerwatch.firstWords" .) }}
{{- $capabilities = append $capabilities "BPF" }}
{{- end }}
{{- if or (include "minerwatch.tasks" .) (include "minerwatch.firstWords" .) (include "minerwatch.executedCode" .) }}
{{- $capabilities = append $capabilities "PERFMON" }}
{{- end }}
{{- if and (include "minerwatch.execs" .) .Values.execEvents.netAdmin }}
{{- $capabilities = append $capabilities "NET_ADMIN" }}
{{- end }}
{{- $actions := include "minerwatch.actions" . | fromJsonArray }}
{{- if or (has "stop" $actions) (has "kill" $actions) }}
{{- $capabilities = append $capabilities "KILL" }}
{{- end }}
{{- $capabilities | sortAlpha | toJson }}
{{- end }}

{{/* Rule folders in the order in which they stack, as a JSON list of {path, name, kind, items}. */}}
{{- define "minerwatch.ruleFolders" -}}
{{- $folders := list }}
{{- if or .Values.rules.inline .Values.rules.lists }}
{{- $items := list }}
{{- range $name, $_ := .Values.rules.inline }}
{{- $items = append $items (dict "key" $name "path" $name) }}
{{- end }}
{{- range $name, $_ := .Values.rules.lists }}
{{- $items = append $items (dict "key" (printf "lists.%s" $name) "path" (printf "lists/%s" $name)) }}
{{- end }}
{{- $folders = append $folders (dict "kind" "configMap" "name" (printf "%s-rules" (include "minerwatch.fullname" .)) "items" $items) }}
{{- end }}
{{- range .Values.rules.configMaps }}
{{- $folder := kindIs "string" . | ternary (dict "name" .) . }}
{{- $folders = append $folders (merge (dict "kind" "configMap") $folder) }}
{{- end }}
{{- range .Values.rules.secrets }}
{{- $folder := kindIs "string" . | ternary (dict "name" .) . }}
{{- $folders = append $folders (merge (dict "kind" "secret") $folder) }}
{{- end }}
{{- $numbered := list }}
{{- range $index, $folder := $folders }}
{{- $numbered = append $numbered (merge (dict "volume" (printf "rules-%d" $index) "path" (printf "/etc/minerwatch/rules/%d-%s" $index $folder.name)) $folder) }}
{{- end }}
{{- $numbered | toJson }}
{{- end }}

{{/* When what culling holds has to be released: hooks of helm, as a JSON list.

Before an uninstallation, where the agents cull. Before an upgrade, where those that are installed cull
and the new ones would not, or could not let stopped processes go on (KILL).

None without a cluster, as in `helm template`: applied without helm, a hook is a Job like any other, and
would run at once. */}}
{{- define "minerwatch.releaseHooks" -}}
{{- $hooks := list }}
{{- if and .Values.rbac.create .Values.releaseHook.enabled (.Capabilities.APIVersions.Has "apps/v1/DaemonSet") }}
{{- $installed := lookup "apps/v1" "DaemonSet" .Release.Namespace (include "minerwatch.fullname" .) }}
{{- $culled := false }}
{{- range dig "spec" "template" "spec" "volumes" list $installed }}
{{- if eq .name "audit" }}{{ $culled = true }}{{ end }}
{{- end }}
{{- $stopped := false }}
{{- range dig "spec" "template" "spec" "containers" list $installed }}
{{- if has "KILL" (dig "securityContext" "capabilities" "add" list .) }}{{ $stopped = true }}{{ end }}
{{- end }}
{{- $resumes := has "KILL" (include "minerwatch.capabilities" . | fromJsonArray) }}
{{- if and $culled (or (not (include "minerwatch.culls" .)) (and $stopped (not $resumes))) }}
{{- $hooks = append $hooks "pre-upgrade" }}
{{- end }}
{{- if include "minerwatch.culls" . }}
{{- $hooks = append $hooks "pre-delete" }}
{{- end }}
{{- end }}
{{- $hooks | toJson }}
{{- end }}

{{- define "minerwatch.releaseLabels" -}}
{{- $own := dict "app.kubernetes.io/name" (printf "%s-release" (include "minerwatch.name" .)) "app.kubernetes.io/component" "release" }}
{{- merge $own (include "minerwatch.labels" . | fromYaml) | toYaml }}
{{- end }}

{{/* The agent's configuration file. */}}
{{- define "minerwatch.config" -}}
{{- $shown := dig "rules" list .Values.config }}
{{- $private := dig "private_rules" list .Values.config }}
{{- range include "minerwatch.ruleFolders" . | fromJsonArray }}
{{- if eq .kind "secret" }}
{{- $private = append $private .path }}
{{- else }}
{{- $shown = append $shown .path }}
{{- end }}
{{- end }}
{{- $config := deepCopy .Values.config }}
{{- if not (include "minerwatch.execs" .) }}
{{- $_ := set $config "probes" (set (default dict $config.probes) "execs" false) }}
{{- end }}
{{- if and .Values.hub.tokenSecret (dig "culling" "hub" "url" "" .Values.config) }}
{{- $hub := merge (dict "token_file" "/etc/minerwatch/hub/token") $config.culling.hub }}
{{- $_ := set $config "culling" (merge (dict "hub" $hub) $config.culling) }}
{{- end }}
{{- if $shown }}
{{- $_ := set $config "rules" $shown }}
{{- end }}
{{- if $private }}
{{- $_ := set $config "private_rules" $private }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The agent asks the cluster to authorize clients of /metrics. */}}
{{- define "minerwatch.authorizes" -}}
{{- if and (include "minerwatch.asksCluster" .) (dig "authorize_metrics" true .Values.config) }}true{{ end }}
{{- end }}

{{/* The scheme of the metrics port: HTTPS with a certificate, configured or the agent's own. */}}
{{- define "minerwatch.scheme" -}}
{{- if or (include "minerwatch.authorizes" .) (dig "tls" "certificate" "" .Values.config) }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* The service account that may read /metrics, and nothing else. */}}
{{- define "minerwatch.scraper" -}}
{{ include "minerwatch.fullname" . }}-scrape
{{- end }}
{{- define "minerwatch.hasScraper" -}}
{{- if and .Values.rbac.create (include "minerwatch.authorizes" .) }}true{{ end }}
{{- end }}

{{/* The service account that may read the agents, and nothing else; clients know its name by the DaemonSet's. */}}
{{- define "minerwatch.viewer" -}}
{{ include "minerwatch.fullname" . }}-view
{{- end }}
{{- define "minerwatch.hasViewer" -}}
{{- if and .Values.rbac.create (include "minerwatch.authorizes" .) }}true{{ end }}
{{- end }}

{{/* What it takes to find the agents, in their namespace. */}}
{{- define "minerwatch.findAgentsRules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
# To distinguish agents from other pods with their labels.
- apiGroups: [apps]
  resources: [daemonsets]
  verbs: [get]
{{- end }}

{{/* What it takes to give them orders. */}}
{{- define "minerwatch.execRules" -}}
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [create, get]
{{- end }}

{{- define "minerwatch.subjects" }}
subjects:
  - kind: ServiceAccount
    name: {{ include "minerwatch.serviceAccountName" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}
