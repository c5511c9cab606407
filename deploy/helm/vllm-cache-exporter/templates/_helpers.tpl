{{- define "exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* app.kubernetes.io/name is the job's name in Prometheus, which the rules use: it never changes. */}}
{{- define "exporter.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "exporter.labels" -}}
{{ include "exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "exporter.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* HTTPS or HTTP: how the exporter's own pages are reached. */}}
{{- define "exporter.scheme" -}}
{{- if .Values.web.tlsSecret -}}HTTPS
{{- else if .Values.web.configSecret -}}{{ .Values.web.scheme }}
{{- else -}}HTTP
{{- end -}}
{{- end -}}

{{/* The namespaces in which pods are discovered with the service account: a JSON list. */}}
{{- define "exporter.podNamespaces" -}}
{{- $found := list -}}
{{- range ((.Values.config.discovery | default dict).kubernetes | default list) -}}
{{- if not .api_url -}}
{{- $found = concat $found (.namespaces | default (list $.Release.Namespace)) -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | toJson -}}
{{- end -}}

{{- define "exporter.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ include "exporter.toml.value" . }}{{ end -}}
{{- end -}}

{{/* TOML of a value. Helm's toToml writes whole numbers as floats, which are no ports. */}}
{{- define "exporter.toml.value" -}}
{{- if kindIs "map" . -}}
{
{{- range $index, $key := keys . | sortAlpha -}}
{{- if $index }}, {{ end -}}{{ include "exporter.toml.key" $key }} = {{ include "exporter.toml.value" (get $ $key) }}
{{- end -}}
}
{{- else if kindIs "slice" . -}}
[
{{- range $index, $each := . -}}
{{- if $index }}, {{ end -}}{{ include "exporter.toml.value" $each }}
{{- end -}}
]
{{- else if and (kindIs "float64" .) (eq . (floor .)) (lt . 1e15) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- /* A text of JSON is one of TOML, but for this character. */ -}}
{{- toJson . | replace "\x7f" "\\u007f" -}}
{{- end -}}
{{- end -}}

{{/* "yes" for a list of nothing but tables. */}}
{{- define "exporter.toml.isTables" -}}
{{- $all := ternary "yes" "" (and (kindIs "slice" .) (not (empty .))) -}}
{{- if $all -}}
{{- range . -}}{{- if not (kindIs "map" .) -}}{{- $all = "" -}}{{- end -}}{{- end -}}
{{- end -}}
{{- $all -}}
{{- end -}}

{{/* The keys of a table: first its values, then its tables, as TOML wants it. `at` is its name and a dot. */}}
{{- define "exporter.toml.table" -}}
{{- $tables := list -}}
{{- range $key := keys .table | sortAlpha -}}
{{- $value := get $.table $key -}}
{{- if or (kindIs "map" $value) (include "exporter.toml.isTables" $value) -}}
{{- $tables = append $tables $key -}}
{{- else if not (kindIs "invalid" $value) }}
{{ include "exporter.toml.key" $key }} = {{ include "exporter.toml.value" $value }}
{{- end -}}
{{- end -}}
{{- range $key := $tables -}}
{{- $value := get $.table $key -}}
{{- $at := printf "%s%s" $.at (include "exporter.toml.key" $key) -}}
{{- if kindIs "map" $value }}

[{{ $at }}]
{{- include "exporter.toml.table" (dict "table" $value "at" (printf "%s." $at)) -}}
{{- else -}}
{{- range $value }}

[[{{ $at }}]]
{{- include "exporter.toml.table" (dict "table" . "at" (printf "%s." $at)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
