{{/* Names, labels, images and what every pod of the release has alike. */}}

{{- define "genmesh.name" -}}
{{- printf "%s-%s" .root.Release.Name .name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "genmesh.selector" -}}
app.kubernetes.io/name: genmesh
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "genmesh.labels" -}}
{{ include "genmesh.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "genmesh.image" -}}
{{- $registry := .root.Values.imageRegistry -}}
{{- with .image -}}
{{- $tag := .tag | default $.root.Chart.AppVersion -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag }}
{{- end -}}
{{- end }}

{{- define "genmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "genmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "genmesh.scheduling" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.spreadOver }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .values.spreadOver }}
    whenUnsatisfiable: {{ if .values.spreadStrictly }}DoNotSchedule{{ else }}ScheduleAnyway{{ end }}
    # A place that takes no pods just now (drained, lost) does not count, so the others go on.
    nodeTaintsPolicy: Honor
    # Of one revision: the pods that an upgrade is about to take away do not count.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "genmesh.selector" . | nindent 8 }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels: {{- include "genmesh.selector" . | nindent 14 }}
{{- end }}
{{- end }}

{{/* The secret of the API keys, and that of the identity. */}}
{{- define "genmesh.apiKeysSecret" -}}
{{ .Values.apiKeys.existingSecret | default (printf "%s-api-keys" .Release.Name) }}
{{- end }}
{{- define "genmesh.identitySecret" -}}
{{ .Values.identity.existingSecret | default (printf "%s-identity" .Release.Name) }}
{{- end }}

{{/* Where parts are; each pod's address is resolved, so that calls and not connections are balanced. */}}
{{- define "genmesh.address" -}}
dns:///{{ include "genmesh.name" . }}.{{ .root.Release.Namespace }}.svc:{{ .port }}
{{- end }}
{{- define "genmesh.milvusUrl" -}}
{{- if .Values.milvus.enabled -}}
http://{{ .Release.Name }}-milvus.{{ .Release.Namespace }}.svc:19530
{{- else -}}
{{ required "milvus.url is needed where milvus.enabled is false" .Values.milvus.url }}
{{- end -}}
{{- end }}
{{- define "genmesh.prometheusUrl" -}}
{{- if .Values.prometheus.enabled -}}
http://{{ .Release.Name }}-prometheus.{{ .Release.Namespace }}.svc:9090
{{- else -}}
{{ required "prometheus.url is needed where Triton scales on metrics and prometheus.enabled is false" .Values.prometheus.url }}
{{- end -}}
{{- end }}

{{/* What Triton scales on: prompts that wait (of OpenVINO's engine or vLLM's), and TTFT; 0 where there is nothing. */}}
{{- define "genmesh.waitingQuery" -}}
{{- $where := ternary "" (printf ",namespace=%q" .Release.Namespace) .Values.prometheus.enabled -}}
sum({__name__=~"genmesh_generator_waiting_requests|vllm:num_requests_waiting"{{ $where }}}) or vector(0)
{{- end }}
{{- define "genmesh.ttftQuery" -}}
max(genmesh:gateway_ttft_seconds:p95_1m{{ if not .Values.prometheus.enabled }}{namespace={{ .Release.Namespace | quote }}}{{ end }} > 0) or vector(0)
{{- end }}

{{/* A budget, where there is more than one replica for sure. Needs name, root, values, least. */}}
{{- define "genmesh.budget" -}}
{{- if gt (int .least) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "genmesh.name" . }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  minAvailable: {{ .values.minAvailable }}
  selector:
    matchLabels: {{- include "genmesh.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Environment of services that call Triton, and of those with a cache; YAML lists. */}}
{{- define "genmesh.tritonEnv" -}}
- name: GENMESH_TRITON_URL
  value: {{ include "genmesh.address" (dict "root" . "name" "triton" "port" 8001) }}
{{- end }}
{{- define "genmesh.redisEnv" -}}
{{- if .Values.redis.existingSecret -}}
- name: GENMESH_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret | quote }}, key: url}}
{{- else if .Values.redis.enabled -}}
- name: GENMESH_REDIS_URL
  value: redis://{{ .Release.Name }}-redis.{{ .Release.Namespace }}.svc:6379/0
{{- else if .Values.redis.url -}}
- name: GENMESH_REDIS_URL
  value: {{ .Values.redis.url | quote }}
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- /* The names of secrets with registry credentials, as pods list them. */}}
{{- define "genmesh.pullSecrets" -}}
{{- range . }}
- {name: {{ . | quote }}}
{{- end }}
{{- end }}
