/* One way to write calls to picoTCP 1.7 and to picoTCP-NG, which hands its stack to most of them.
 */
#pragma once
#include "pico_defines.h"

#include "pico_device.h"
#include "pico_ipv4.h"
#include "pico_socket.h"
#include "pico_stack.h"
#include "pico_tcp.h"

#ifdef PICOTCP_NG
extern struct pico_stack *variant_stack;
#define VARIANT_INIT() pico_stack_init(&variant_stack)
#define WITH_STACK(...) variant_stack, __VA_ARGS__
#define VARIANT_TICK() pico_stack_tick(variant_stack)
#else
#define VARIANT_INIT() pico_stack_init()
#define WITH_STACK(...) __VA_ARGS__
#define VARIANT_TICK() pico_stack_tick()
#endif
