/* A network namespace of a test's own, with root or without, and the wires in it. */
#pragma once
#include <stdbool.h>

/*
 * Moves this process into a new network namespace; without root also into a new user namespace,
 * where it is root. false: refused, and why.
 */
bool netns_enter(const char **why);
/* Runs `ip ARGUMENTS`; true if it succeeded. */
bool netns_ip(const char *arguments, ...) __attribute__((format(printf, 1, 2)));
/* A veth pair NAME and NAME_PEER with so many queues each, both up, without IPv6. */
bool netns_veth(const char *name, const char *peer, unsigned queues, unsigned mtu);
