{{/* The agents' DaemonSet. With `gpu: true` beside the chart's own objects: that of GPU nodes, with a sampler. */}}
{{- define "minerwatch.daemonset" -}}
{{- $hostNetwork := include "minerwatch.hostNetwork" . }}
{{- $folders := include "minerwatch.ruleFolders" . | fromJsonArray }}
{{- $sampler := and .gpu (ne .Values.gpu.access "dcgm") }}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "minerwatch.fullname" . }}{{ if .gpu }}-gpu{{ end }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "minerwatch.labels" . | nindent 4 }}
  annotations:
    # Not on the pods: rules are read again as they change, and a restart would forget what was found.
    checksum/rules: {{ toJson .Values.rules | sha256sum }}
spec:
  selector:
    matchLabels:
      {{- include "minerwatch.selectorLabels" . | nindent 6 }}
      {{- if .gpu }}
      minerwatch.io/gpu: "true"
      {{- end }}
  updateStrategy:
    {{- toYaml .Values.updateStrategy | nindent 4 }}
  template:
    metadata:
      labels:
        {{- $selector := include "minerwatch.selectorLabels" . | fromYaml }}
        {{- if .gpu }}
        {{- $_ := set $selector "minerwatch.io/gpu" "true" }}
        {{- end }}
        {{- merge $selector .Values.podLabels (include "minerwatch.labels" . | fromYaml) | toYaml | nindent 8 }}
      annotations:
        {{- $annotations := dict "checksum/config" (include "minerwatch.config" . | sha256sum) "kubectl.kubernetes.io/default-container" "agent" }}
        {{- if and .Values.appArmorProfile (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}
        {{- $profile := dict "Unconfined" "unconfined" "RuntimeDefault" "runtime/default" | dig .Values.appArmorProfile (printf "localhost/%s" .Values.appArmorProfile) }}
        {{- $_ := set $annotations "container.apparmor.security.beta.kubernetes.io/agent" $profile }}
        {{- end }}
        {{- merge $annotations .Values.podAnnotations | toYaml | nindent 8 }}
    spec:
      serviceAccountName: {{ include "minerwatch.serviceAccountName" . }}
      # On GPU nodes the token is mounted into the agent alone: the sampler beside it needs none.
      automountServiceAccountToken: {{ and (not $sampler) (eq (include "minerwatch.asksCluster" .) "true") }}
      {{- if and $sampler (ne .Values.gpu.access "privileged") }}
      runtimeClassName: {{ .Values.gpu.runtimeClassName }}
      {{- end }}
      hostPID: true
      {{- if $hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
      {{- with include "minerwatch.priorityClassName" . }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range uniq . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with .Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "minerwatch.affinity" . | fromYaml }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: agent
          image: {{ include "minerwatch.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - agent
            - --listen=$(POD_IP):{{ .Values.port }}
            - --log-format={{ .Values.logFormat }}
          env:
            - name: MINERWATCH_CONFIG
              value: /etc/minerwatch/config/config.yaml
            - name: MINERWATCH_NODE
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
            {{- if include "minerwatch.culls" . }}
            - name: MINERWATCH_POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            - name: MINERWATCH_POD_UID
              valueFrom:
                fieldRef:
                  fieldPath: metadata.uid
            {{- end }}
            - name: POD_IP
              valueFrom:
                fieldRef:
                  fieldPath: status.podIP
            {{- if $sampler }}
            - name: MINERWATCH_GPU_SOCKET
              value: /run/minerwatch-gpu/gpu.sock
            {{- else if .gpu }}
            - name: NODE_IP
              valueFrom:
                fieldRef:
                  fieldPath: status.hostIP
            - name: MINERWATCH_GPU_EXPORTER
              value: {{ required "gpu.exporter: the address of dcgm-exporter on the node, as gpu.access is dcgm" .Values.gpu.exporter }}
            {{- end }}
            {{- $own := list "MINERWATCH_CONFIG" "MINERWATCH_NODE" "MINERWATCH_POD_NAMESPACE" "MINERWATCH_POD_UID" "POD_IP" "MINERWATCH_GPU_SOCKET" "MINERWATCH_GPU_EXPORTER" "NODE_IP" }}
            {{- include "minerwatch.requireUnique" (dict "where" "extraEnv" "key" "name" "own" $own "extra" .Values.extraEnv) }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - name: metrics
              containerPort: {{ .Values.port }}
              {{- if $hostNetwork }}
              hostPort: {{ .Values.port }}
              {{- end }}
          startupProbe:
            httpGet: {path: /healthz, port: metrics, scheme: {{ include "minerwatch.scheme" . }}}
            {{- toYaml .Values.probes.startup | nindent 12 }}
          livenessProbe:
            httpGet: {path: /healthz, port: metrics, scheme: {{ include "minerwatch.scheme" . }}}
            {{- toYaml .Values.probes.liveness | nindent 12 }}
          readinessProbe:
            httpGet: {path: /readyz, port: metrics, scheme: {{ include "minerwatch.scheme" . }}}
            {{- toYaml .Values.probes.readiness | nindent 12 }}
          resources:
            {{- toYaml .Values.resources | nindent 12 }}
          securityContext:
            privileged: false
            # Capabilities come to root only: Kubernetes has no ambient ones.
            runAsUser: 0
            runAsGroup: 0
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            {{- with .Values.seLinuxOptions }}
            seLinuxOptions:
              {{- toYaml . | nindent 14 }}
            {{- end }}
            seccompProfile:
              {{- toYaml .Values.seccompProfile | nindent 14 }}
            {{- if and .Values.appArmorProfile (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}
            appArmorProfile:
              {{- if has .Values.appArmorProfile (list "Unconfined" "RuntimeDefault") }}
              type: {{ .Values.appArmorProfile }}
              {{- else }}
              type: Localhost
              localhostProfile: {{ .Values.appArmorProfile }}
              {{- end }}
            {{- end }}
            capabilities:
              drop: [ALL]
              {{- with include "minerwatch.capabilities" . | fromJsonArray }}
              add: {{ toJson . }}
              {{- end }}
          volumeMounts:
            - {name: config, mountPath: /etc/minerwatch/config, readOnly: true}
            - {name: run, mountPath: /run/minerwatch}
            - {name: cgroups, mountPath: /sys/fs/cgroup, readOnly: true}
            {{- if $sampler }}
            - {name: gpu, mountPath: /run/minerwatch-gpu}
            {{- if include "minerwatch.asksCluster" . }}
            - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
            {{- end }}
            {{- end }}
            {{- range $folders }}
            - {name: {{ .volume }}, mountPath: {{ .path }}, readOnly: true}
            {{- end }}
            {{- if include "minerwatch.culls" . }}
            - {name: audit, mountPath: /var/lib/minerwatch}
            {{- end }}
            {{- if and (include "minerwatch.asksHub" .) .Values.hub.tokenSecret }}
            - {name: hub-token, mountPath: /etc/minerwatch/hub, readOnly: true}
            {{- end }}
            {{- $own := list "/etc/minerwatch/config" "/etc/minerwatch/hub" "/run/minerwatch" "/run/minerwatch-gpu" "/sys/fs/cgroup" "/var/lib/minerwatch" }}
            {{- range $folders }}
            {{- $own = append $own .path }}
            {{- end }}
            {{- include "minerwatch.requireUnique" (dict "where" "extraVolumeMounts" "key" "mountPath" "own" $own "extra" .Values.extraVolumeMounts) }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        {{- if $sampler }}
        {{- include "minerwatch.gpuSampler" . | nindent 8 }}
        {{- end }}
      volumes:
        {{- if $sampler }}
        - name: gpu
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
        {{- if eq .Values.gpu.access "privileged" }}
        - name: gpu-driver
          hostPath: {path: {{ required "gpu.driverRoot: where NVIDIA's driver is on the nodes, as gpu.access is privileged" .Values.gpu.driverRoot }}, type: Directory}
        {{- end }}
        {{- if include "minerwatch.asksCluster" . }}
        - name: token
          projected:
            defaultMode: 0400
            sources:
              - serviceAccountToken: {path: token, expirationSeconds: 3607}
              - configMap:
                  name: kube-root-ca.crt
                  items: [{key: ca.crt, path: ca.crt}]
              - downwardAPI:
                  items:
                    - path: namespace
                      fieldRef: {fieldPath: metadata.namespace}
        {{- end }}
        {{- end }}
        - name: config
          configMap:
            name: {{ include "minerwatch.fullname" . }}
        - name: run
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
        # The host's: a container sees only its own cgroups.
        - name: cgroups
          hostPath: {path: /sys/fs/cgroup, type: Directory}
        {{- range $folders }}
        - name: {{ .volume }}
          {{- if eq .kind "secret" }}
          secret:
            secretName: {{ .name }}
            defaultMode: 0400
          {{- else }}
          configMap:
            name: {{ .name }}
          {{- end }}
            {{- with .items }}
            items:
              {{- toYaml . | nindent 14 }}
            {{- end }}
        {{- end }}
        {{- if include "minerwatch.culls" . }}
        - name: audit
          hostPath: {path: {{ .Values.audit.hostPath }}, type: DirectoryOrCreate}
        {{- end }}
        {{- if and (include "minerwatch.asksHub" .) .Values.hub.tokenSecret }}
        - name: hub-token
          secret:
            secretName: {{ .Values.hub.tokenSecret }}
            defaultMode: 0400
            items: [{key: {{ .Values.hub.tokenKey }}, path: token}]
        {{- end }}
        {{- $own := list "config" "run" "cgroups" "audit" "hub-token" "gpu" "gpu-driver" "token" }}
        {{- range $folders }}
        {{- $own = append $own .volume }}
        {{- end }}
        {{- include "minerwatch.requireUnique" (dict "where" "extraVolumes" "key" "name" "own" $own "extra" .Values.extraVolumes) }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* Reads NVIDIA's driver for the agent, which asks it through a socket: a driver that hangs holds up only this.

It has no token and no capability, except where the value `access` says otherwise. */}}
{{- define "minerwatch.gpuSampler" -}}
- name: gpu
  image: {{ include "minerwatch.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python3, -I, -m, minerwatch.node.children.gpu_sampler]
  args:
    - --listen
    - /run/minerwatch-gpu/gpu.sock
    - /proc
    - /sys
    {{- if eq .Values.gpu.access "privileged" }}
    - /driver/{{ trimPrefix "/" .Values.gpu.library }}
    {{- end }}
  {{- if ne .Values.gpu.access "privileged" }}
  env:
    - name: NVIDIA_VISIBLE_DEVICES
      value: {{ eq .Values.gpu.access "cdi" | ternary "management.nvidia.com/gpu=all" "all" }}
    - name: NVIDIA_DRIVER_CAPABILITIES
      value: utility
    {{- if .Values.gpu.migMonitor }}
    - name: NVIDIA_MIG_MONITOR_DEVICES
      value: all
    {{- end }}
  {{- end }}
  resources:
    {{- toYaml .Values.gpu.resources | nindent 4 }}
  securityContext:
    privileged: {{ eq .Values.gpu.access "privileged" }}
    # The agent's user: no other may open the socket.
    runAsUser: 0
    runAsGroup: 0
    readOnlyRootFilesystem: true
    {{- if ne .Values.gpu.access "privileged" }}
    allowPrivilegeEscalation: false
    seccompProfile: {type: RuntimeDefault}
    capabilities:
      drop: [ALL]
      {{- if .Values.gpu.migMonitor }}
      add: [SYS_ADMIN]
      {{- end }}
    {{- end }}
  volumeMounts:
    - {name: gpu, mountPath: /run/minerwatch-gpu}
    {{- if eq .Values.gpu.access "privileged" }}
    - {name: gpu-driver, mountPath: /driver, readOnly: true}
    {{- end }}
{{- end }}

{{/* The affinity of a DaemonSet, so that no node gets both: `gpu.nodes` is what only GPU nodes have.

Terms are alternatives: a node without one of the labels is no GPU node. */}}
{{- define "minerwatch.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- if .Values.gpu.enabled }}
{{- $own := list }}
{{- range $key, $value := .Values.gpu.nodes }}
{{- $is := eq $value "*" | ternary (dict "key" $key "operator" "Exists") (dict "key" $key "operator" "In" "values" (list $value)) }}
{{- $not := eq $value "*" | ternary (dict "key" $key "operator" "DoesNotExist") (dict "key" $key "operator" "NotIn" "values" (list $value)) }}
{{- if $.gpu }}
{{- $own = append $own $is }}
{{- else }}
{{- $own = append $own (list $not) }}
{{- end }}
{{- end }}
{{- if .gpu }}
{{- $own = list $own }}
{{- end }}
{{- $terms := list }}
{{- $given := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list (dict)) $affinity }}
{{- range $term := $given }}
{{- range $own }}
{{- $all := concat (dig "matchExpressions" list $term) . }}
{{- $terms = append $terms (merge (dict "matchExpressions" $all) $term) }}
{{- end }}
{{- end }}
{{- $required := dict "nodeSelectorTerms" $terms }}
{{- $node := merge (dict "requiredDuringSchedulingIgnoredDuringExecution" $required) (dig "nodeAffinity" dict $affinity) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}
