#!/bin/sh
# The judge's system user and the directory that tells the helper who it is: owned by that user, in a
# directory of root's. Usage: install_judge_user.sh USER LIBEXEC
set -eu
user=$1
directory=${DESTDIR:-}$2/judge.d
mkdir -p "$directory"
chmod 0700 "$directory"
if [ -n "${DESTDIR:-}" ] || [ "$(id -u)" != 0 ]; then
  echo "note: the package must create the system user '$user' and give it $2/judge.d; until then suid mode is refused"
  exit 0
fi
if ! getent passwd "$user" >/dev/null; then
  if command -v systemd-sysusers >/dev/null; then
    echo "u $user - \"Postern's judge\" / -" | systemd-sysusers -
  else
    useradd --system --no-create-home --home-dir / --shell /usr/sbin/nologin "$user"
  fi
fi
chown "$user:" "$directory"
