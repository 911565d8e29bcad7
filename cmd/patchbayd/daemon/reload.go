package daemon

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
)

// Reload reads the configuration again at every signal until the context ends. The log's level
// changes at once; of everything else it says which sections need a restart.
func Reload(ctx context.Context, signals <-chan os.Signal, now config.Config, load func() (config.Config, error), level *slog.LevelVar, log *slog.Logger) {
	for {
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		next, err := load()
		if err == nil {
			err = failpoint.Hit("reload-read")
		}
		if err != nil {
			log.Error("configuration is not taken over", "error", err)
			continue
		}
		_ = level.UnmarshalText([]byte(next.Log.Level)) // load has seen that it is one
		now.Log.Level = next.Log.Level
		if waiting := differences(now, next); len(waiting) > 0 {
			log.Warn("these sections of the configuration need a restart", "sections", strings.Join(waiting, ","))
		}
		log.Info("configuration read again", "level", next.Log.Level)
	}
}

// differences returns the names of the sections that are not the same.
func differences(a, b config.Config) []string {
	var names []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, va.Type().Field(i).Tag.Get("yaml"))
		}
	}
	return names
}
