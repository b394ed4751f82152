#include "wire/wire-i.h"

static void add_escape(struct buf *out, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	static const char shorts[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
				      ['\r'] = 'r', ['"'] = '"',  ['\\'] = '\\'};

	if (c < sizeof shorts && shorts[c] != '\0')
		buf_add(out, (char[]){'\\', shorts[c]}, 2);
	else
		buf_add(out, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

/* Bytes that are no UTF-8 become U+FFFD: the document stays valid. */
void wire_string(struct buf *out, struct slice s)
{
	const char *p = s.p, *end = s.n == 0 ? s.p : s.p + s.n, *plain = p;

	buf_add_char(out, '"');
	while (p < end) {
		unsigned char c = (unsigned char)*p;
		size_t n = c < 0x80 ? 1 : utf8_sequence(p, end);

		if (c >= 0x20 && c != '"' && c != '\\' && n > 0) {
			p += n;
			continue;
		}
		buf_add(out, plain, (size_t)(p - plain));
		if (n == 0)
			buf_add_str(out, "\xef\xbf\xbd");
		else
			add_escape(out, c);
		plain = ++p;
	}
	buf_add(out, plain, (size_t)(p - plain));
	buf_add_char(out, '"');
}

static void put_digits(char *at, int n, int64_t v)
{
	for (; n > 0; n--, v /= 10)
		at[n - 1] = (char)('0' + v % 10);
}

/* Days since 1970-01-01 to a date of the proleptic Gregorian calendar (H. Hinnant,
 * "chrono-Compatible Low-Level Date Algorithms"): years begin in March there,
 * and an era has 400 of them. */
static void put_date(char *at, int64_t days)
{
	int64_t since = days + 719468;
	int64_t era = since / 146097, of_era = since % 146097;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t march = (5 * of_year + 2) / 153;
	int64_t month = march < 10 ? march + 3 : march - 9;

	put_digits(at, 4, year + era * 400 + (month <= 2));
	put_digits(at + 5, 2, month);
	put_digits(at + 8, 2, of_year - (153 * march + 2) / 5 + 1);
}

void wire_time(struct buf *out, int64_t unix_ms)
{
	/* The format has four digits for the year: 0001 to 9999. */
	const int64_t first = -62135596800000, last = 253402300799999;
	const int64_t day_ms = 86400000;
	int64_t ms = MIN(MAX(unix_ms, first), last) - first;
	int64_t of_day = ms % day_ms;
	char text[] = "\"0000-00-00T00:00:00.000Z\"";

	put_date(text + 1, (ms - of_day) / day_ms + first / day_ms);
	put_digits(text + 12, 2, of_day / 3600000);
	put_digits(text + 15, 2, of_day / 60000 % 60);
	put_digits(text + 18, 2, of_day / 1000 % 60);
	put_digits(text + 21, 3, of_day % 1000);
	buf_add(out, text, sizeof text - 1);
}
