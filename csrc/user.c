#include "user.h"
#include "util.h"
/* placeholder until the parser lands */
int fctr_user_lookup(int passwd_fd, int group_fd, const char *user, struct fctr_user *out, struct fctr_error *err)
{
	(void)passwd_fd; (void)group_fd; (void)out;
	return fctr_fail(err, FCTR_ST_USER, ENOENT, "%s", user);
}
