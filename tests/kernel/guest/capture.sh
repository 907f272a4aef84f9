#!/bin/dash
# The first process of a guest that traces programs: what to do is on its command line.
#   programs=a,b       names below /programs; without any, only the symbols are told
#   random=on huge=on  random addresses; huge pages always
export PATH=/usr/bin:/usr/sbin HOME=/tmp LC_ALL=C PYTHONDONTWRITEBYTECODE=1
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /out /tmp
for word in $(cat /proc/cmdline); do
    case $word in
    programs=*) programs=$(echo "${word#programs=}" | tr , ' ') ;;
    random=*) random=${word#random=} ;;
    huge=*) huge=${word#huge=} ;;
    esac
done
grep -E " (do_mem_abort|begin_new_exec)$" /proc/kallsyms | sed 's/^/symbol /'
echo -1 > /proc/sys/kernel/perf_event_paranoid
echo 0 > /proc/sys/kernel/kptr_restrict
echo 64 > /proc/sys/vm/nr_hugepages
echo 4294967295 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
[ "$random" = on ] || echo 0 > /proc/sys/kernel/randomize_va_space
always=/sys/kernel/mm/transparent_hugepage/enabled
if [ "$huge" = on ]; then echo always > $always; else echo madvise > $always; fi
for program in $programs; do
    case $program in
    shell) set -- /bin/sh /programs/shell.sh ;;
    interp) set -- /usr/bin/python3 /programs/interp.py ;;
    loader) set -- /usr/bin/sqlite3 :memory: "select(sqlite_version())" ;;
    *) set -- /programs/$program ;;
    esac
    "$@" > /dev/null 2>&1 # its files are in the page cache from here on
    perf record -q -k CLOCK_REALTIME --sample-cpu -e page-faults -c 1 -d -o /tmp/data -- \
        strace -f -ttt -s0 -y -o /out/$program.strace \
        -e trace=%memory,%process,userfaultfd,ioctl,sched_setaffinity -- "$@" > /dev/null
    perf script -i /tmp/data --show-mmap-events --show-task-events \
        -F comm,pid,tid,cpu,time,event,addr,ip,sym,dso > /out/$program.perf
    echo "traced $program"
done
echo begin
cd /out && tar cJf - . | base64
echo end
busybox poweroff -f
