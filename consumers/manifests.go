package consumers

import (
	"context"
	"time"

	"backstop/streams/manifest"
)

// followManifests takes over manifests as they are applied and removed, until
// ctx ends; loaded is called when all that were there have been taken over.
func (p *Pipeline) followManifests(ctx context.Context, loaded func()) {
	for ctx.Err() == nil {
		err := p.cfg.Manifests.Watch(ctx, func(u manifest.Update) {
			if !u.Loaded {
				p.health.declare(u.App, u.Manifest)
			}
			switch {
			case u.Loaded:
				loaded()
				p.capabilities.review()
			case p.fleet.declare(u.App, u.Manifest):
				p.capabilities.review()
			}
		})
		if err != nil && ctx.Err() == nil {
			p.log.Warn("lost the watch on manifests, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
}
