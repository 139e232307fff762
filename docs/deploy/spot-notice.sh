#!/bin/sh
# AWS spot: a machine's metadata service says two minutes before that it will be taken. This asks every five seconds and then
# runs COMMAND, which has to send SIGTERM to batchr1; that saves and commits within --grace (here at most 90s), and ends
# with 75.
#
#     spot-notice.sh systemctl kill --kill-whom=main batchr1-nightly.service    # by batchr1-spot-notice.service
#     spot-notice.sh docker compose stop                                        # beside docker-compose.yml
#     spot-notice.sh kill -TERM PID
#
# Kubernetes needs AWS's node termination handler (or Karpenter) instead, which drains the node: SIGTERM to every pod. In a
# container on a bridge network the instance's metadata hop limit has to be 2.
#
# Checked: shellcheck 0.11; run beside a real `batchr1 run`, with a stand-in for the metadata service on loopback that wants
# tokens as IMDSv2 does (tests/docs/test_spot_notice.py). Not run on AWS.
set -u
[ $# -gt 0 ] || { echo "spot-notice.sh: which command? See the head of this file." >&2; exit 2; }
service=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} # the SDKs' name for it
every_s=${SPOT_NOTICE_EVERY_S:-5}

ask() { curl --silent --fail --noproxy '*' --max-time 2 "$@"; }

# A token for each question: none can go stale. It travels by standard input, so that no process list shows it.
notice() {
    token=$(ask -X PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$service/latest/api/token") || return 2
    echo "X-aws-ec2-metadata-token: $token" | ask --header @- "$service/latest/meta-data/spot/instance-action"
}

silent=0
while :; do
    action=$(notice)
    case "$?" in
        0) break ;;
        22) silent=0 ;; # HTTP 404: no notice
        *)
            [ "$silent" = 1 ] || echo "spot-notice.sh: no answer from $service; asking on" >&2
            silent=1
            ;;
    esac
    sleep "$every_s"
done
echo "spot-notice.sh: $action: $*" >&2
"$@"
