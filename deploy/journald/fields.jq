# Makes entries for the systemd journal from lines of the audit log, with each member as a field XKSPROXY_NAME, and those of
# request_metadata as XKSPROXY_META_NAME. MESSAGE is the line itself, so that the chain can be verified. jq 1.6 or newer:
#
#   jq --raw-input --join-output --from-file fields.jq audit.log | systemd-journal-remote --output audit.journal -
#   journalctl --file audit.journal XKSPROXY_KEYSTORE=payments XKSPROXY_META_KMSREQUESTID=94de0ef9-8faa-4e34-ac69-0704d99268a4
def name: ascii_upcase | gsub("[^A-Z0-9]"; "_");
def value: if type == "string" then . else tojson end | gsub("[\n\r]"; " ");
. as $line
| fromjson
| .time as $time
| (.request_metadata // {} | with_entries(.key |= "meta_\(.)")) as $metadata
| "__REALTIME_TIMESTAMP=\(($time[0:19] + "Z" | fromdate) * 1000000 + ($time[20:23] | tonumber) * 1000)\n",
  "SYSLOG_IDENTIFIER=xksproxy\nMESSAGE=\($line)\n",
  (del(.request_metadata) + $metadata | to_entries[] | "XKSPROXY_\(.key | name)=\(.value | value)\n"),
  "\n"
