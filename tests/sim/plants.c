/*
 * Is the oracle any good? Each planted defect must be found within a few
 * thousand seeds, and as a breach of the rule that it breaks. One child process
 * per defect; TAP, a line each. `sim_plants NAME` shows one child's report.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "obs/log.h"
#include "sim.h"

enum { MOST_SEEDS = 5000 };

static const struct planted {
	const char *name;
	enum plant plant;
	enum rule rule;
} planted[] = {
	{"a request is sent twice", PLANT_SENDS_TWICE, RULE_SEEN},
	{"a cancel is lost", PLANT_LOSES_CANCELS, RULE_OUTLIVES},
	{"a payload is changed on its way", PLANT_CHANGES_BODIES, RULE_REQUEST},
	{"a message between shards is lost", PLANT_DROPS_MESSAGES, RULE_LIVENESS},
	{"a deferred call is lost", PLANT_LOSES_CALLS, RULE_IDLE},
	{"a timer is not given back", PLANT_LEAKS_TIMERS, RULE_LEAK},
	{"concurrency is doubled", PLANT_CONCURRENCY, RULE_CONCURRENCY},
	{"order is not kept", PLANT_NOT_SEQUENTIAL, RULE_SEQUENTIAL},
	{"one attempt too many", PLANT_MORE_ATTEMPTS, RULE_MAX_ATTEMPTS},
	{"the ttl is ignored", PLANT_NO_TTL, RULE_NO_START_LATE},
	{"the deadline is doubled", PLANT_LONG_DEADLINE, RULE_OUTLIVES},
	{"the attempt timeout is doubled", PLANT_LONG_TIMEOUT, RULE_OUTLIVES},
	{"a payload loses its last byte", PLANT_SHORT_PAYLOAD, RULE_REQUEST},
	{"a dedupe key is forgotten", PLANT_NO_KEY, RULE_REQUEST},
	{"one more in flight in a lane", PLANT_IN_FLIGHT, RULE_IN_FLIGHT},
	{"the contract is misread", PLANT_OTHER_CONTRACT, RULE_ALL_OR_NOTHING},
	{"the gate stays open", PLANT_GATE_OPEN, RULE_NO_START_AFTER_END},
	{"what may be delivered is repeated", PLANT_REPEATS_MAYBE, RULE_AT_MOST_ONCE},
	{"a first failure stops nothing", PLANT_GOES_ON, RULE_ALL_OR_NOTHING},
	{"a wait is cut in half", PLANT_IMPATIENT, RULE_RETRY_WAIT},
	{"a wait is twice as long", PLANT_SLEEPS_LONG, RULE_RETRY_WAIT},
	{"delivered is the last, not the maximum", PLANT_FORGETS_DELIVERED, RULE_STICKY},
	{"an attempt is not counted", PLANT_MISCOUNTS, RULE_ATTEMPTS},
	{"a wrong stop", PLANT_WRONG_STOP, RULE_STOP},
	{"deadlines never expire", PLANT_NO_EXPIRY, RULE_OUTLIVES},
	{"503 always means no", PLANT_503_IS_NO, RULE_VERDICT},
	{"a cancel beats a status", PLANT_CANCEL_BEATS_STATUS, RULE_VERDICT},
	{"a 500 passes as accepted", PLANT_ALWAYS_OK, RULE_VERDICT},
	{"results change places", PLANT_SHUFFLED_RESULTS, RULE_RESULTS},
	{"a wrong stop_reason", PLANT_WRONG_REASON, RULE_STOP_REASON},
	{"a duplicate is kept quiet", PLANT_NO_DUPLICATE_RISK, RULE_DUPLICATE},
	{"every batch succeeds", PLANT_WRONG_OUTCOME, RULE_COUNTS},
	{"ok is always true", PLANT_OK_IS_TRUE, RULE_OK},
	{"everything is retryable", PLANT_ALL_RETRYABLE, RULE_DOCUMENT},
	{"the listener is called at once", PLANT_EARLY_CALL, RULE_LISTENER},
	{"a refusal without a reason", PLANT_ALWAYS_BUSY, RULE_ADMISSION},
	{"an item settles twice", PLANT_SETTLES_TWICE, RULE_REQUIRE},
	{"cancels do not reach the lanes", PLANT_NO_CANCEL_TREE, RULE_ABORT_AT_ONCE},
	{"a job is acknowledged before it is kept", PLANT_EARLY_ACK, RULE_ACK},
	{"an end is told before it is kept", PLANT_EARLY_DONE, RULE_ACK},
	{"a claim is not waited for", PLANT_NO_CLAIM, RULE_CLAIM},
	{"a claim under at_most_once is not synced", PLANT_UNSYNCED, RULE_CLAIM},
	{"a claim is forgotten by the next process", PLANT_FORGETS_CLAIMS, RULE_CLAIM},
	{"an interrupted attempt is not counted", PLANT_UNCOUNTED, RULE_ATTEMPTS},
	{"an interrupted attempt passes as not delivered", PLANT_INTERRUPTED_IS_NO, RULE_AT_MOST_ONCE},
	{"an update is lost", PLANT_LOSES_UPDATES, RULE_KEPT},
	{"a result on the disk is changed", PLANT_CHANGES_RESULTS, RULE_KEPT},
	{"a job is forgotten by the next process", PLANT_FORGETS_JOBS, RULE_LIVENESS},
	{"what was cut off is never ended", PLANT_FORGETS_NOTES, RULE_LIVENESS},
	{"an item is lost when its job comes back", PLANT_LOSES_ITEMS, RULE_LIVENESS},
	{"a wait is forgotten when its job comes back", PLANT_FORGETS_WAITS, RULE_RETRY_WAIT},
	{"a letter is lost once it was tried", PLANT_LOSES_LETTERS, RULE_LETTER},
	{"another webhook-id after the job came back", PLANT_OTHER_KEY, RULE_REQUEST},
	{"the end overtakes the last update", PLANT_HASTY_FINISH, RULE_UPDATE},
	{"a batch changes while the store has it", PLANT_CHANGES_ACCEPTED, RULE_FROZEN},
	{"a job is parked for too long", PLANT_LATE_PARK, RULE_PARK},
	{"a job sleeps on after a restart", PLANT_OVERSLEEPS, RULE_IDLE},
	{"a watcher is told nothing", PLANT_DEAF_WATCH, RULE_WATCH},
	{"jobs take all memory", PLANT_NO_ROOM_LIMIT, RULE_RESIDENT},
	{"a burst is one too large", PLANT_BURST_AND_ONE, RULE_RATE},
	{"a rate is a tenth too fast", PLANT_FAST, RULE_RATE},
	{"a start is not charged to the rate", PLANT_RATE_UNPAID, RULE_RATE},
	{"a lane that is idle forgets what it owes", PLANT_LANE_FORGETS, RULE_RATE},
	{"a burst is not granted", PLANT_NO_BURST, RULE_IDLE},
	{"Retry-After pauses nobody else", PLANT_NO_PAUSE, RULE_PAUSE},
	{"a pause is half as long", PLANT_SHORT_PAUSE, RULE_PAUSE},
	{"a pause is longer than it may be", PLANT_LONG_PAUSE, RULE_IDLE},
	{"what waits for a lane that pauses holds up its batch", PLANT_WAITS_IN_LANE, RULE_HELD},
	{"a lane's timer is forgotten", PLANT_NO_TIMER, RULE_IDLE},
	{"the parts of max_in_flight are more than it", PLANT_PARTS_OF_FLIGHT, RULE_IN_FLIGHT},
	{"each lane has the whole rate", PLANT_PARTS_OF_RATE, RULE_RATE},
	{"each lane has the whole retry budget", PLANT_PARTS_OF_BUDGET, RULE_BUDGET},
	{"a pause is not told to the other lanes", PLANT_PAUSE_UNTOLD, RULE_PAUSE},
	{"a breaker never opens", PLANT_NO_BREAKER, RULE_BREAKER},
	{"a breaker is open for half as long", PLANT_SHORT_OPEN, RULE_BREAKER},
	{"a breaker opens one failure too early", PLANT_EAGER_BREAKER, RULE_REFUSED},
	{"a half-open breaker lets two probes through", PLANT_TWO_PROBES, RULE_BREAKER},
	{"an outcome from before the opening counts after it", PLANT_STALE_OUTCOME, RULE_BREAKER},
	{"an item's own fault opens a breaker", PLANT_4XX_FAILS, RULE_REFUSED},
	{"a 429 opens a breaker", PLANT_429_FAILS, RULE_REFUSED},
	{"an abort of ours opens a breaker", PLANT_ABORT_FAILS, RULE_REFUSED},
	{"a 5xx closes a breaker", PLANT_5XX_SUCCEEDS, RULE_BREAKER},
	{"a timeout does not count for a breaker", PLANT_TIMEOUT_IS_NEITHER, RULE_BREAKER},
	{"a probe that says nothing is waited for forever", PLANT_PROBE_LOST, RULE_REFUSED},
	{"a refused try counts as an attempt", PLANT_REFUSED_IS_ATTEMPT, RULE_SEEN},
	{"a refused try is not counted", PLANT_REFUSED_UNCOUNTED, RULE_REFUSED},
	{"a refused try is not told to the store", PLANT_REFUSED_UNTOLD, RULE_CLAIM},
	{"a refused try is forgotten by the next process", PLANT_REFUSED_UNKEPT, RULE_KEPT},
	{"repeats have all the budget they want", PLANT_NO_BUDGET, RULE_BUDGET},
	{"the budget's window is a quarter as long", PLANT_SHORT_WINDOW, RULE_BUDGET},
	{"a repeat is not charged to the budget", PLANT_REPEAT_UNPAID, RULE_BUDGET},
	{"repeats have no budget", PLANT_POOR_BUDGET, RULE_IDLE},
	{"first attempts are charged to the budget", PLANT_FIRSTS_PAY, RULE_IDLE},
	{"first attempts wait behind repeats", PLANT_FIRSTS_WAIT, RULE_IDLE},
	{"tenants have no weights", PLANT_NO_WEIGHTS, RULE_FAIR},
	{"batches have no priorities", PLANT_NO_PRIORITIES, RULE_FAIR},
	{"a service takes all slots of a shard", PLANT_UNFAIR_SLOTS, RULE_SLOTS},
	{"a reload changes nothing", PLANT_OLD_LIMITS, RULE_RATE},
	{"a reload forgives what is owed", PLANT_DEBT_FORGIVEN, RULE_RATE},
	{"one item more is let in for a service", PLANT_MORE_QUEUED, RULE_ADMISSION},
	{"a tenth more items are let in", PLANT_MORE_ITEMS, RULE_ADMISSION},
	{"a tenant may have one item more", PLANT_MORE_OF_TENANT, RULE_ADMISSION},
	{"best_effort makes no room", PLANT_NEVER_SHEDS, RULE_SHED},
	{"best_effort is shed too early", PLANT_SHEDS_EARLY, RULE_SHED},
	{"an item of a tenant is not given back", PLANT_TENANT_LEAK, RULE_LEAK},
	{"a tenant takes more than its part", PLANT_TENANT_TAKES_ALL, RULE_ADMISSION},
	{"a caller of a tenant is not given back", PLANT_CALLER_LEAK, RULE_LEAK},
	{"a lane that found no slot is forgotten", PLANT_STARVED_SLEEP, RULE_IDLE},
	{"a job is settled by a shutdown", PLANT_SETTLED_BY_SHUTDOWN, RULE_SHUTDOWN},
};

static void run_child(const struct planted *p, uint64_t seed)
{
	for (; seed <= MOST_SEEDS; seed++)
		run_seed(seed, p->plant);
	printf("# broken: nothing in %d seeds\n", MOST_SEEDS);
	fflush(stdout);
	_Exit(0);
}

/* What the child's report names: the rule, "" if it died without one, and the seed. */
static void read_report(FILE *report, char rule[64], unsigned long long *seed)
{
	char row[4096];

	rule[0] = '\0';
	*seed = MOST_SEEDS;
	while (fgets(row, sizeof row, report) != NULL)
		if (sscanf(row, "# broken: %63[^\n]", rule) == 1)
			break;
	while (fgets(row, sizeof row, report) != NULL)
		sscanf(row, "Bail out! seed %llu", seed);
}

static uint64_t run_planted(const struct planted *p, uint64_t seed, char rule[64])
{
	unsigned long long broken_at;
	FILE *report;
	pid_t child;
	int fd[2];

	if (pipe(fd) != 0 || (child = fork()) < 0)
		exit(2);
	if (child == 0) {
		dup2(fd[1], STDOUT_FILENO);
		close(fd[0]);
		run_child(p, seed);
	}
	close(fd[1]);
	report = fdopen(fd[0], "r");
	if (report == NULL)
		exit(2);
	read_report(report, rule, &broken_at);
	fclose(report);
	waitpid(child, NULL, 0);
	return broken_at;
}

/* A defect often breaks a neighbouring rule first: go on until it breaks its own. */
static bool is_found(const struct planted *p, uint64_t *seed, char rule[64])
{
	bool found = false;

	for (uint64_t next = 1; next <= MOST_SEEDS && !found; next = *seed + 1) {
		*seed = run_planted(p, next, rule);
		found = strcmp(rule, rule_str(p->rule)) == 0;
		if (rule[0] == '\0')
			break;
	}
	return found;
}

/* A rule that no defect breaks may be one that can never fail. */
static bool every_rule_is_tested(void)
{
	for (unsigned r = 0; r < RULE_MAX; r++) {
		bool tested = false;

		for (size_t i = 0; i < ARRAY_LEN(planted); i++)
			tested = tested || planted[i].rule == (enum rule)r;
		if (!tested) {
			printf("# no defect breaks %s\n", rule_str((enum rule)r));
			return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	bool good = every_rule_is_tested();

	log_init(LOG_LOGFMT, LOG_ERROR);
	printf("1..%zu\n%sok 1 - every rule has a defect that breaks it\n", ARRAY_LEN(planted) + 1,
	       good ? "" : "not ");
	fflush(stdout);
	for (size_t i = 0; i < ARRAY_LEN(planted); i++) {
		const struct planted *p = &planted[i];
		uint64_t seed;
		char rule[64];
		bool found;

		if (argc > 1 && strcmp(argv[1], p->name) == 0)
			run_child(p, 1);
		found = is_found(p, &seed, rule);
		printf("%sok %zu - %s: seed %llu breaks %s\n", found ? "" : "not ", i + 2, p->name,
		       (unsigned long long)seed, rule);
		fflush(stdout);
		good = good && found;
	}
	return good ? 0 : 1;
}
