#!/bin/sh
# Makes sure that the tests find a RabbitMQ: one that is named, one that is installed, or Debian's package.
set -eu
if [ -n "${RECEIVER_TEST_AMQP_URL:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "There is no RabbitMQ here: installing Debian's rabbitmq-server (apt-get); it is not left running."
    export DEBIAN_FRONTEND=noninteractive
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$ && chmod +x /tmp/policy-rc.d.$$
    [ -e /usr/sbin/policy-rc.d ] || { mv /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    rm -f /tmp/policy-rc.d.$$
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null
    exit 0
fi
echo "The tests need a RabbitMQ: install Debian's rabbitmq-server, or name one in RECEIVER_TEST_AMQP_URL=amqp://..." >&2
exit 1
