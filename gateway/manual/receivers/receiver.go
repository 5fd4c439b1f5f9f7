// A receiver in Go: go run receiver.go
// Needs nothing but Go's own library, and WEBHOOK_SECRET: whsec_….
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tolerance  = 5 * time.Minute
	maxBody    = 64 << 20 // a result may hold images
	remembered = 100_000
)

type event struct {
	Type string `json:"type"`
	Data struct {
		TaskID string `json:"taskId"`
		Result struct {
			ResultURLs []string `json:"resultUrls"`
		} `json:"result"`
		FailMsg *string `json:"failMsg"`
		Reason  string  `json:"reason"`
	} `json:"data"`
}

// verify returns nil where a holder of the key sent this body, with this id, a short while ago.
func verify(key, body []byte, header http.Header) error {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || strings.Contains(id, ".") || err != nil {
		return errors.New("not a signed webhook")
	}
	if age := time.Since(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return fmt.Errorf("webhook-timestamp is %v old", age.Round(time.Second))
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, entry := range strings.Fields(header.Get("webhook-signature")) { // one for each active secret
		if hmac.Equal(expected, []byte(entry)) {
			return nil
		}
	}
	return errors.New("no signature matches")
}

// ids says of each webhook-id whether it is handled, or still being handled. Where it must outlast this process: a table
// of your database with the id as its key, written in the transaction that does the work.
type ids struct {
	sync.Mutex
	handled map[string]bool
	order   []string
}

var errBusy = errors.New("it is being handled just now")

// once does the work of an id that is new. It returns errBusy where that is being done, and nil where it was done before.
func (i *ids) once(id string, work func() error) (err error) {
	i.Lock()
	handled, known := i.handled[id]
	if !known {
		i.handled[id] = false
	}
	i.Unlock()
	switch {
	case handled:
		return nil
	case known:
		return errBusy
	}
	err = errors.New("the handler panicked")
	defer func() {
		i.Lock()
		defer i.Unlock()
		if err != nil {
			delete(i.handled, id) // the next attempt is handled
			return
		}
		i.handled[id] = true
		if i.order = append(i.order, id); len(i.order) > remembered {
			delete(i.handled, i.order[0])
			i.order = i.order[1:]
		}
	}()
	err = work()
	return err
}

// handle does what is to be done once; an error has the webhook come again.
func handle(e event) error {
	switch e.Type {
	case "task.succeeded":
		fmt.Println("succeeded", e.Data.TaskID, strings.Join(e.Data.Result.ResultURLs, " "))
	case "task.failed":
		message := ""
		if e.Data.FailMsg != nil {
			message = *e.Data.FailMsg
		}
		fmt.Println("failed", e.Data.TaskID, message)
	case "task.abandoned":
		fmt.Println("abandoned", e.Data.TaskID, e.Data.Reason)
	}
	return nil
}

func main() {
	secret := strings.TrimRight(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"), "=")
	key, err := base64.RawStdEncoding.DecodeString(secret)
	if err != nil || len(key) == 0 {
		log.Fatal("WEBHOOK_SECRET is not whsec_ and base64")
	}
	seen := ids{handled: map[string]bool{}}

	http.HandleFunc("/hooks", func(answer http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPost {
			http.Error(answer, "webhooks are sent with POST", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBody))
		if err != nil {
			http.Error(answer, "the body cannot be read", http.StatusBadRequest)
			return
		}
		if err := verify(key, body, request.Header); err != nil {
			http.Error(answer, err.Error(), http.StatusUnauthorized)
			return
		}
		err = seen.once(request.Header.Get("webhook-id"), func() error {
			var e event
			var another *json.UnmarshalTypeError // what the upstream sent may be of any type: then it is left out
			if err := json.Unmarshal(body, &e); err != nil && !errors.As(err, &another) {
				return err
			}
			return handle(e)
		})
		if errors.Is(err, errBusy) { // it comes again, in case that fails
			answer.Header().Set("retry-after", "5")
			http.Error(answer, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.WriteHeader(http.StatusNoContent)
	})

	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}
