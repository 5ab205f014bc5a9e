{{/*
A stateful or small built-in part: one pod and its Service. Needs root, name, values, port, and
  kind       Deployment or StatefulSet
  args       the container's arguments
  command    its command, where not the image's
  mounts, volumes, claim (a volumeClaimTemplate)
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
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "genmesh.image" (dict "root" .root "image" .values.image) }}
          imagePullPolicy: {{ .values.image.pullPolicy }}
          {{- with .command }}
          command: {{- toYaml . | nindent 12 }}
          {{- end }}
          args: {{- toYaml .args | nindent 12 }}
          securityContext: {{- include "genmesh.containerSecurity" . | nindent 12 }}
          ports:
            - {name: main, containerPort: {{ .port }}}
          readinessProbe:
            tcpSocket: {port: main}
            periodSeconds: 2
          resources: {{- toYaml .values.resources | nindent 12 }}
          volumeMounts: {{- toYaml .mounts | nindent 12 }}
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
{{- end }}
