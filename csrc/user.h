#ifndef FCTR_USER_H
#define FCTR_USER_H
#include "fctr.h"
struct fctr_user { uint32_t uid, gid; uint32_t groups[64]; size_t n_groups; char home[256]; };
int fctr_user_lookup(int passwd_fd, int group_fd, const char *user, struct fctr_user *out, struct fctr_error *err);
#endif
