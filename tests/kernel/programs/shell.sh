# What a shell does: pipelines, substitutions, subshells, small commands.
for i in 1 2 3 4 5 6; do echo "line $i $((i*i))"; done | grep -v 3 | sort -r | head -3 > /tmp/o
x=$(cat /tmp/o | wc -l); test "$x" = 3 && echo good
for f in /wl/*; do n=$(basename $f); case $n in *.sh) echo $n;; esac; done
( cd /tmp; ls -l | sed s/o/x/ ) > /dev/null; rm -f /tmp/o
