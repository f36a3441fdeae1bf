package reserve

import "testing"

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Rate
		text string
	}{
		{"100Mbit", 100 * Mbit, "100Mbit"},
		{"2.5gbit", 2500 * Mbit, "2.5Gbit"},
		{" 512kbit ", 512, "512kbit"},
		{"1GBIT", Gbit, "1Gbit"},
	} {
		got, err := ParseRate(c.in)
		if err != nil || got != c.want || got.String() != c.text {
			t.Errorf("ParseRate(%q) = %v (%s), %v; want %v (%s)", c.in, int64(got), got, err, int64(c.want), c.text)
		}
		if again, err := ParseRate(got.String()); err != nil || again != got {
			t.Errorf("ParseRate(%q) = %v, %v; want %v", got.String(), again, err, got)
		}
	}
	for _, in := range []string{"", "100", "Mbit", "-1Mbit", "0Mbit", "NaNMbit", "1e30Gbit", "infgbit", "5MB", "1Mbit/2Mbit"} {
		if got, err := ParseRate(in); err == nil {
			t.Errorf("ParseRate(%q) = %v, want an error", in, got)
		}
	}
}

func TestAccess(t *testing.T) {
	a, err := ParseAccess("20Mbit/250Mbit")
	if err != nil || a != (Access{20 * Mbit, 250 * Mbit}) {
		t.Fatalf("ParseAccess = %v, %v", a, err)
	}
	if r := a.Reservable(); r != (Access{14 * Mbit, 175 * Mbit}) {
		t.Errorf("Reservable = %v", r)
	}
	if a, err := ParseAccess("1Gbit"); err != nil || a != (Access{Gbit, Gbit}) {
		t.Errorf("ParseAccess(1Gbit) = %v, %v", a, err)
	}
	for _, in := range []string{"", "/", "1Mbit/", "/1Mbit", "1Mbit/x"} {
		if _, err := ParseAccess(in); err == nil {
			t.Errorf("ParseAccess(%q): no error", in)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("100Mbit")
	f.Add("2.5gbit")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			return
		}
		if again, err := ParseRate(r.String()); err != nil || again != r || r <= 0 {
			t.Fatalf("%q: %v, then %v, %v", s, r, again, err)
		}
	})
}
