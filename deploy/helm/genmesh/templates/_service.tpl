{{/*
One service: Deployment, headless Service, budget and autoscaler. Needs
  root, name      the part's name as in its folder, with "-" for "_"
  key             its key in .Values.services
  env             extra environment, as a list; what the values' own env says goes before it
  readiness       its readiness probe's handler, where not gRPC health of the process
  cards           true: it reads the models' cards and tokenizers
*/}}
{{- define "genmesh.service" -}}
{{- $values := mergeOverwrite (deepCopy .root.Values.defaults) (index .root.Values.services .key | default dict) -}}
{{- $_ := set . "values" $values -}}
{{- $name := include "genmesh.name" . -}}
{{- $least := ternary (int $values.autoscaling.minReplicas) (int $values.replicas) $values.autoscaling.enabled -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  {{- if not $values.autoscaling.enabled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  selector:
    matchLabels: {{- include "genmesh.selector" . | nindent 6 }}
  minReadySeconds: {{ $values.minReadySeconds }}
  # A new pod is ready when what it needs answers, Triton's models among it.
  progressDeadlineSeconds: {{ add .root.Values.triton.startupSeconds $values.minReadySeconds 120 }}
  strategy:
    rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}
  template:
    metadata:
      labels: {{- include "genmesh.labels" . | nindent 8 }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "9100"
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $values.lameDuckSeconds $values.drainSeconds 15 }}
      securityContext: {{- include "genmesh.podSecurity" . | nindent 8 }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{- include "genmesh.pullSecrets" . | nindent 8 }}
      {{- end }}
      {{- include "genmesh.scheduling" . | nindent 6 }}
      {{- if .cards }}
      initContainers:
        - name: cards
          # Where the models are on a volume, no node needs Triton's large image for this.
          {{- $image := ternary .root.Values.image .root.Values.triton.image (ne .root.Values.triton.modelsClaim "") }}
          image: {{ include "genmesh.image" (dict "root" .root "image" $image) }}
          imagePullPolicy: {{ $image.pullPolicy }}
          command: [genmesh-cards, /models, /cards]
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext: {{- include "genmesh.containerSecurity" . | nindent 12 }}
          resources:
            requests: {cpu: 50m, memory: 64Mi}
            limits: {memory: 256Mi}
          volumeMounts:
            - {name: cards, mountPath: /cards}
            {{- if .root.Values.triton.modelsClaim }}
            - {name: models, mountPath: /models, readOnly: true}
            {{- end }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "genmesh.image" (dict "root" .root "image" .root.Values.image) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [services.{{ .name | replace "-" "_" }}]
          # Why it ended stands in the pod's status.
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext: {{- include "genmesh.containerSecurity" . | nindent 12 }}
          env:
            - {name: GENMESH_HOST, value: "0.0.0.0"}
            - {name: GENMESH_PORT, value: "8080"}
            - {name: GENMESH_METRICS_PORT, value: "9100"}
            - {name: GENMESH_LOG_LEVEL, value: {{ .root.Values.logLevel }}}
            - {name: GENMESH_MAX_CONNECTION_AGE_SECONDS, value: {{ $values.connectionAgeSeconds | quote }}}
            - {name: GENMESH_LAME_DUCK_SECONDS, value: {{ $values.lameDuckSeconds | quote }}}
            - {name: GENMESH_DRAIN_SECONDS, value: {{ $values.drainSeconds | quote }}}
            - {name: GENMESH_MAX_CONCURRENT_CALLS, value: {{ $values.maxConcurrentCalls | quote }}}
            - name: GENMESH_IDENTITY_SECRET
              valueFrom: {secretKeyRef: {name: {{ include "genmesh.identitySecret" .root }}, key: secret}}
            {{- with .root.Values.otlpEndpoint }}
            - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
            {{- end }}
            {{- if .cards }}
            - {name: GENMESH_MODELS_DIR, value: /cards}
            {{- end }}
            {{- range .env }}
            {{- if not (hasKey ($values.env | default dict) .name) }}
            {{- list . | toYaml | nindent 12 }}
            {{- end }}
            {{- end }}
            {{- range $setting, $value := $values.env }}
            - {name: {{ $setting }}, value: {{ $value | quote }}}
            {{- end }}
          ports:
            - {name: grpc, containerPort: 8080}
            - {name: metrics, containerPort: 9100}
            {{- with .ports }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # A pod's first calls come when all that it needs answers. From then on only the pod itself counts: what all
          # replicas lean on takes none of them away, and callers get its own error rather than none at all.
          startupProbe: {{- toYaml (.readiness | default (dict "grpc" (dict "port" 8080 "service" "itself"))) | nindent 12 }}
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: {{ .root.Values.triton.startupSeconds }}
          readinessProbe: {{- toYaml (.readiness | default (dict "grpc" (dict "port" 8080 "service" "itself"))) | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          # Of a process whose event loop stands still the port is open as before.
          livenessProbe: {{- toYaml (.readiness | default (dict "grpc" (dict "port" 8080 "service" "itself"))) | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          resources: {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if .cards }}
            - {name: cards, mountPath: /cards, readOnly: true}
            {{- end }}
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: 64Mi}}
        {{- if .cards }}
        - {name: cards, emptyDir: {sizeLimit: 256Mi}}
        {{- if .root.Values.triton.modelsClaim }}
        - {name: models, persistentVolumeClaim: {claimName: {{ .root.Values.triton.modelsClaim | quote }}, readOnly: true}}
        {{- end }}
        {{- end }}
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  # Headless: callers see every pod, and balance calls rather than connections. Whether a pod takes calls they ask
  # itself (gRPC health "itself"), sooner than DNS could tell.
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{- include "genmesh.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: 8080, targetPort: grpc, appProtocol: kubernetes.io/h2c}
    - {name: metrics, port: 9100, targetPort: metrics}
    {{- range .ports }}
    - {name: {{ .name }}, port: {{ .containerPort }}, targetPort: {{ .name }}}
    {{- end }}
{{- include "genmesh.budget" (dict "root" .root "name" .name "values" $values "least" $least) }}
{{- if $values.autoscaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels: {{- include "genmesh.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ $values.autoscaling.minReplicas }}
  maxReplicas: {{ $values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ $values.autoscaling.cpuPercent }}}}
{{- end }}
{{- end }}
