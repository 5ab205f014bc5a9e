{{/*
A stateful or small built-in part: one pod and its Service. Needs root, name, values, port, and
  kind       Deployment or StatefulSet
  args       the container's arguments
  command    its command, where not the image's
  mounts, volumes, claim (a volumeClaimTemplate)
  lameDuck   seconds that it goes on after it was told to end
  metricsPort  where it, or a container beside it (sidecar, as text), tells Prometheus of itself
*/}}
{{- define "genmesh.part" -}}
{{- $name := include "genmesh.name" . -}}
apiVersion: apps/v1
kind: {{ .kind }}
metadata:
  name: {{ $name }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  replicas: 1
  {{- if eq .kind "StatefulSet" }}
  serviceName: {{ $name }}
  {{- else }}
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels: {{- include "genmesh.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "genmesh.labels" . | nindent 8 }}
      {{- with .annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{- include "genmesh.podSecurity" . | nindent 8 }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{- include "genmesh.pullSecrets" . | nindent 8 }}
      {{- end }}
      {{- include "genmesh.scheduling" . | nindent 6 }}
      {{- with .lameDuck }}
      terminationGracePeriodSeconds: {{ add . 15 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "genmesh.image" (dict "root" .root "image" .values.image) }}
          imagePullPolicy: {{ .values.image.pullPolicy }}
          {{- with .command }}
          command: {{- toYaml . | nindent 12 }}
          {{- end }}
          args: {{- toYaml .args | nindent 12 }}
          {{- with .lameDuck }}
          lifecycle: {preStop: {sleep: {seconds: {{ . }}}}}
          {{- end }}
          securityContext: {{- include "genmesh.containerSecurity" . | nindent 12 }}
          ports:
            - {name: main, containerPort: {{ .port }}}
            {{- if and .metricsPort (not .sidecar) }}
            - {name: metrics, containerPort: {{ .metricsPort }}}
            {{- end }}
          readinessProbe:
            tcpSocket: {port: main}
            periodSeconds: 2
          startupProbe:  # a store with much to read takes its time
            tcpSocket: {port: main}
            periodSeconds: 2
            failureThreshold: 300
          livenessProbe:
            tcpSocket: {port: main}
            periodSeconds: 10
            failureThreshold: 6
          resources: {{- toYaml .values.resources | nindent 12 }}
          volumeMounts: {{- toYaml .mounts | nindent 12 }}
        {{- with .sidecar }}{{ . | nindent 8 }}{{ end }}
      volumes: {{- toYaml .volumes | nindent 8 }}
  {{- with .claim }}
  volumeClaimTemplates: {{- toYaml . | nindent 4 }}
  {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  selector: {{- include "genmesh.selector" . | nindent 4 }}
  ports:
    - {name: main, port: {{ .port }}, targetPort: main}
    {{- with .metricsPort }}
    - {name: metrics, port: {{ . }}, targetPort: metrics}
    {{- end }}
{{- end }}
