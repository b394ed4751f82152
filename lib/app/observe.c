/*
 * What a shard says of itself ten times a second: how late its loop is, and how
 * many callers are connected. How late this timer rings is how long an event
 * that came at the same instant had to wait.
 */
#include "app-i.h"

enum { LOOK_US = 100000 };

static void look(void *arg)
{
	struct shard *s = arg;
	struct meter meter = {s->app->metrics, s->index};
	int64_t now_us = loop_now_us(s->loop);

	meter_observe_us(meter, METRIC_LOOP_LAG, 0, 0, now_us - s->observe_at_us);
	meter_set(meter, METRIC_CONNECTIONS, 0, 0, httpd_usage(s->httpd).connections);
	s->observe_at_us = now_us + LOOK_US;
	loop_timer_at(s->observe, s->observe_at_us);
}

void observe_start(struct shard *s)
{
	s->observe = loop_timer_new(s->loop, LOOP_NORMAL, look, s);
	s->observe_at_us = loop_now_us(s->loop) + LOOK_US;
	loop_timer_at(s->observe, s->observe_at_us);
}
