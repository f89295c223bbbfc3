#!/bin/sh
# Before a removal, and before an upgrade, which stops nothing: the new version restarts what runs.
set -e

case "${1-}" in
upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
    # Drains the workers, and waits for them: their program is about to go.
    systemctl stop 'naq-worker@*.service' naq-scheduler.service naq-dashboard.service
    systemctl disable naq-scheduler.service naq-dashboard.service 2>/dev/null || true
    # `disable` takes no pattern, and an enabled worker has no file of its own, only links.
    rm -f /etc/systemd/system/*.wants/naq-worker@*.service /etc/systemd/system/*.requires/naq-worker@*.service
fi
