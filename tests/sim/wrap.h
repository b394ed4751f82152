/* A function that the linker puts before another one of its name (--wrap). */
#pragma once

#define WRAPPED(ret, name, ...) \
	ret __real_##name(__VA_ARGS__); \
	ret __wrap_##name(__VA_ARGS__); \
	ret __wrap_##name(__VA_ARGS__)
