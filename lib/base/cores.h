/*
 * How many threads are worth having. For any thread; never fails.
 */
#pragma once

/* The cores that this process may run on, or what its control group grants of their time,
 * rounded up, if that is less: threads beyond it would be throttled. At least 1. */
unsigned cores_usable(void);

/* What a control group and those above it grant, in cores, rounded up: the file of a process
 * that names it (/proc/self/cgroup), and where the groups are (/sys/fs/cgroup). 0: there is
 * no limit, or none that can be read. See cpu.max in the kernel's
 * Documentation/admin-guide/cgroup-v2.rst, and for version 1, which is looked for under
 * `cpu` there, cpu.cfs_quota_us in Documentation/scheduler/sched-bwc.rst. */
unsigned cores_granted(const char *self, const char *groups);
