{{- /* No label holds the tag or a revision: an upgrade changes images and nothing else. */ -}}
{{- define "model-engine.podLabels" -}}
app.kubernetes.io/part-of: model-engine
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "model-engine.labels" -}}
{{ include "model-engine.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "model-engine.image" -}}
{{- if not .Values.image.repository }}{{ fail "set image.repository" }}{{ end -}}
{{- if not .Values.tag }}{{ fail "set tag" }}{{ end -}}
{{ .Values.image.repository }}:{{ .Values.tag }}
{{- end }}

{{- define "model-engine.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.databaseSecretName }}
      key: database_url
- name: SERVICEBUS_NAMESPACE
  value: {{ .Values.azure.servicebus_namespace | quote }}
{{- with .Values.secrets.servicebusSecretName }}
- name: SERVICEBUS_CONNECTION_STRING
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: connection_string
- name: SERVICEBUS_CA_FILE
  value: /etc/servicebus/ca.crt
{{- end }}
{{- with .Values.secrets.redisSecretName }}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: redis_url
{{- end }}
- name: AZURE_CLIENT_ID
  value: {{ .Values.azure.client_id | quote }}
- name: ABS_ACCOUNT_NAME
  value: {{ .Values.azure.abs_account_name | quote }}
- name: ABS_CONTAINER_NAME
  value: {{ .Values.azure.abs_container_name | quote }}
- name: KEYVAULT_NAME
  value: {{ .Values.azure.keyvault_name | quote }}
- name: ML_INFRA_SERVICES_CONFIG_PATH
  value: /etc/model-engine/infra.yaml
- name: DEPLOY_SERVICE_CONFIG_PATH
  value: /etc/model-engine/launch.yaml
- name: WORKER_CONCURRENCY
  value: {{ .Values.workerConcurrency | quote }}
- name: CACHE_SECONDS
  value: {{ .Values.cacheSeconds | quote }}
{{- with .Values.extraEnvVars }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "model-engine.podSpec" -}}
serviceAccountName: model-engine
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: tmp
    emptyDir: {}
  - name: config
    configMap:
      name: model-engine-config
  {{- with .Values.secrets.servicebusSecretName }}
  - name: servicebus-ca
    secret:
      secretName: {{ . }}
      optional: true
      items:
        - key: ca.crt
          path: ca.crt
  {{- end }}
{{- end }}

{{- define "model-engine.container" -}}
image: {{ include "model-engine.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "model-engine.env" . | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: config
    mountPath: /etc/model-engine
    readOnly: true
  {{- if .Values.secrets.servicebusSecretName }}
  - name: servicebus-ca
    mountPath: /etc/servicebus
    readOnly: true
  {{- end }}
{{- end }}
