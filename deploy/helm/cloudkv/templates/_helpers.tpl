{{- define "cloudkv.name" -}}
{{ printf "%s-cloudkv" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "cloudkv.labels" -}}
{{ include "cloudkv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
cloudkv.io/region: {{ .Values.region }}
{{- end }}

{{- define "cloudkv.selector" -}}
app.kubernetes.io/name: cloudkv
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Domain of the pods: <pod>.<domain>. */}}
{{- define "cloudkv.podDomain" -}}
{{ include "cloudkv.name" . }}-nodes.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{/* Nodes that a node tries to join. The first pod of a cluster has only itself: it bootstraps one. */}}
{{- define "cloudkv.join" -}}
{{- $name := include "cloudkv.name" . -}}
{{- $domain := include "cloudkv.podDomain" . -}}
{{- $nodes := list -}}
{{- if .Values.bootstrap -}}
{{- $nodes = append $nodes (printf "%s-0.%s:7070" $name $domain) -}}
{{- else -}}
{{- range $index := until (int .Values.replicas) -}}
{{- $nodes = append $nodes (printf "%s-%d.%s:7070" $name $index $domain) -}}
{{- end -}}
{{- $nodes = concat $nodes .Values.join -}}
{{- end -}}
{{- join "," $nodes -}}
{{- end }}

{{- define "cloudkv.seeds" -}}
{{- $name := include "cloudkv.name" . -}}
{{- $domain := include "cloudkv.podDomain" . -}}
{{- $nodes := list -}}
{{- range $index := until (int .Values.replicas) -}}
{{- $nodes = append $nodes (printf "%s-%d.%s:7070" $name $index $domain) -}}
{{- end -}}
{{- join "," $nodes -}}
{{- end }}

{{- define "cloudkv.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "cloudkv.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
