#!/bin/sh
# Makes sure that the tests find a RabbitMQ, a PostgreSQL and promtool: installed ones, or Debian's packages.
set -eu
missing=""
[ -n "${RECEIVER_TEST_AMQP_URL:-}${RECEIVER_TEST_RABBITMQ_ROOT:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="rabbitmq-server"
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
command -v promtool >/dev/null || missing="$missing prometheus" # judges the alert rules
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian's $missing for the tests (apt-get); nothing is left running."
    export DEBIAN_FRONTEND=noninteractive
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$ && chmod +x /tmp/policy-rc.d.$$
    [ -e /usr/sbin/policy-rc.d ] || { mv /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    rm -f /tmp/policy-rc.d.$$
    apt-get update -qq
    # shellcheck disable=SC2086 # names of packages
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "The tests need $missing: install Debian's package (a RabbitMQ may also be named in RECEIVER_TEST_AMQP_URL=amqp://...)" >&2
exit 1
