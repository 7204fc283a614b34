package embedded_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"backstop/embedded"
)

// A server that only this process reaches.
func ExampleStart() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	srv, err := embedded.Start(ctx, embedded.Config{DataDir: dir, Addr: embedded.AddrOff})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Shutdown(ctx)

	nc, err := srv.Connect()
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close() // before Shutdown

	fmt.Println(nc.ConnectedServerName(), srv.Health())
	// Output: backstop <nil>
}
