//go:build !linux

package exec

import (
	"context"
	"fmt"

	"farlan/reserve"
)

// run needs what only Linux has.
func run(context.Context, Config, []byte) (result, error) {
	return result{}, fmt.Errorf("%w on this system", reserve.ErrUnsupported)
}
