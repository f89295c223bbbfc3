#!/bin/sh
# After an installation or an upgrade. Enables nothing: which queue, and which NATS, only the administrator knows.
set -e

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers /usr/lib/sysusers.d/naq.conf
elif ! id naq >/dev/null 2>&1; then
    if command -v useradd >/dev/null; then
        useradd --system --user-group --home-dir /var/lib/naq --no-create-home --shell /usr/sbin/nologin naq
    else
        addgroup -S naq
        adduser -S -D -H -h /var/lib/naq -s /sbin/nologin -G naq naq
    fi
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/naq.conf
else
    mkdir -p /var/lib/naq
    chown naq:naq /var/lib/naq
    chmod 0750 /var/lib/naq
fi

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Restarts what runs. A worker drains first, which may take hours: the package manager does not wait for it.
    systemctl --no-block try-restart 'naq-worker@*.service' naq-scheduler.service naq-dashboard.service
fi
