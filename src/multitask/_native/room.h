/* How much memory there is to be had, so that a put can say MemoryError before the kernel says it with a signal.
 *
 * Looked at: RLIMIT_AS (what is queued counts as if it were mapped), the memory limits of this process' control
 * groups, MemAvailable. Sources: proc(5), cgroups(7), the kernel's admin-guide/cgroup-v1/memory and cgroup-v2.
 * The answer may be out of date when it is used; some room is left for those who ask at the same time.
 */
#ifndef MULTITASK_ROOM_H
#define MULTITASK_ROOM_H

#include "base.h"

#include <stdio.h>
#include <sys/resource.h>

#define MT_GROUPS 16 /* control groups from this process' own up to the root */
#define MT_PATH 512
#define MT_MIB (1ull << 20)

typedef struct {
    char folder[MT_PATH];
    int version;
} mt_group;

static mt_group mt_groups[MT_GROUPS];
static int mt_group_count = 0;
static _Atomic int mt_groups_known = 0; /* 0 no, 1 somebody is reading, 2 yes */

/* The first `size - 1` bytes of a file, closed by a zero; their number or a negative errno. */
static long mt_read_file(const char *path, char *to, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    size_t used = 0;
    ssize_t n = 0;
    while (used < size - 1 && (n = read(fd, to + used, size - 1 - used)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        used += (size_t)n;
    }
    close(fd);
    to[used] = 0;
    return (long)used;
}

/* The number in a file; UINT64_MAX when there is none ("max"). */
static uint64_t mt_read_number(const mt_group *group, const char *name) {
    char path[MT_PATH + 64], text[64];
    snprintf(path, sizeof path, "%s/%s", group->folder, name);
    if (mt_read_file(path, text, sizeof text) <= 0 || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

/* The number behind `name` at the start of a line of `text`, 0 when it is not there. */
static uint64_t mt_number_after(const char *text, const char *name) {
    size_t length = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, name, length) == 0) return strtoull(line + length, NULL, 10);
    return 0;
}

/* Note the folder of the group `inside` of a hierarchy mounted at `top`, and all above it. */
static void mt_note_groups(const char *top, const char *inside, int version) {
    char folder[MT_PATH];
    if (snprintf(folder, sizeof folder, "%s%s", top, strcmp(inside, "/") ? inside : "") >= (int)sizeof folder) return;
    for (size_t least = strlen(top); strlen(folder) >= least && mt_group_count < MT_GROUPS;) {
        mt_group *group = &mt_groups[mt_group_count++];
        memcpy(group->folder, folder, sizeof folder);
        group->version = version;
        char *cut = strrchr(folder, '/');
        if (cut == NULL || cut == folder) break;
        *cut = 0;
    }
}

/* Which hierarchy does a line of mountinfo show? 1: version 1 with memory; 2: version 2; 0: another thing. */
static int mt_hierarchy(const char *line, char *root, char *top) {
    char kind[32], options[MT_PATH];
    if (sscanf(line, "%*s %*s %*s %511s %511s", root, top) != 2) return 0;
    const char *rest = strstr(line, " - ");
    if (rest == NULL || sscanf(rest, " - %31s %*s %511s", kind, options) != 2) return 0;
    if (strcmp(kind, "cgroup2") == 0) return 2;
    return strcmp(kind, "cgroup") == 0 && strstr(options, "memory") ? 1 : 0;
}

/* This process' group in that hierarchy, from the text of /proc/self/cgroup. */
static int mt_own_group(const char *text, int version, char *path) {
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        char controllers[256] = "";
        if (version == 2 && sscanf(line, "0::%511[^\n]", path) == 1) return 1;
        if (version == 1 && sscanf(line, "%*d:%255[^:]:%511[^\n]", controllers, path) == 2 && strstr(controllers, "memory"))
            return 1;
    }
    return 0;
}

static void mt_find_groups(void) {
    static char mounts[65536], own[8192];
    char root[MT_PATH], top[MT_PATH], path[MT_PATH];
    if (mt_read_file("/proc/self/cgroup", own, sizeof own) <= 0) return;
    if (mt_read_file("/proc/self/mountinfo", mounts, sizeof mounts) <= 0) return;
    for (char *line = mounts, *end; line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (end) *end = 0;
        int version = mt_hierarchy(line, root, top);
        if (!version || !mt_own_group(own, version, path)) continue;
        /* Inside a container without a namespace of its own the mount shows a part of the tree only. */
        size_t shown = strlen(root);
        const char *inside = strcmp(root, "/") && strncmp(path, root, shown) == 0 ? path + shown : path;
        mt_note_groups(top, *inside ? inside : "/", version);
    }
}

static int mt_group_has(const mt_group *group, uint64_t more) {
    static const char *names[2][3] = {{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"},
                                      {"memory.max", "memory.current", ""}};
    const char **name = names[group->version - 1];
    uint64_t limit = mt_read_number(group, name[0]);
    if (limit >= UINT64_MAX / 4) return 1;
    uint64_t used = mt_read_number(group, name[1]);
    uint64_t spare = limit / 16 < 32 * MT_MIB ? limit / 16 : 32 * MT_MIB;
    if (used == UINT64_MAX || used + more + spare <= limit) return 1;
    /* Cached files are counted and can be had back. */
    char path[MT_PATH + 64], text[8192], wanted[64];
    snprintf(path, sizeof path, "%s/memory.stat", group->folder);
    if (mt_read_file(path, text, sizeof text) <= 0) return 0;
    snprintf(wanted, sizeof wanted, "%sinactive_file ", name[2]);
    uint64_t cached = mt_number_after(text, wanted);
    snprintf(wanted, sizeof wanted, "%sactive_file ", name[2]);
    cached += mt_number_after(text, wanted);
    return used - (cached < used ? cached : used) + more + spare <= limit;
}

static int mt_address_space_has(uint64_t queued, uint64_t more) {
    struct rlimit limit;
    char text[128];
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return 1;
    if (mt_read_file("/proc/self/statm", text, sizeof text) <= 0) return 1;
    return strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) + queued + more <= (uint64_t)limit.rlim_cur;
}

static int mt_machine_has(uint64_t more) {
    char text[2048];
    if (mt_read_file("/proc/meminfo", text, sizeof text) <= 0) return 1;
    uint64_t total = mt_number_after(text, "MemTotal:") * 1024, available = mt_number_after(text, "MemAvailable:") * 1024;
    uint64_t spare = total / 32 < 256 * MT_MIB ? total / 32 : 256 * MT_MIB;
    return total == 0 || more + spare <= available;
}

/* May `more` bytes be reserved by a queue that occupies `queued` bytes already? 0 or -ENOMEM. */
static int mt_room_for(uint64_t queued, uint64_t more) {
    int known = 0;
    if (atomic_load_explicit(&mt_groups_known, memory_order_acquire) != 2) {
        if (atomic_compare_exchange_strong(&mt_groups_known, &known, 1)) {
            mt_find_groups();
            atomic_store_explicit(&mt_groups_known, 2, memory_order_release);
        }
    }
    if (!mt_address_space_has(queued, more) || !mt_machine_has(more)) return -ENOMEM;
    if (atomic_load_explicit(&mt_groups_known, memory_order_acquire) != 2) return 0; /* somebody reads them just now */
    for (int i = 0; i < mt_group_count; i++)
        if (!mt_group_has(&mt_groups[i], more)) return -ENOMEM;
    return 0;
}

#endif
