package vbmc

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

const sessionsPath = root + "/SessionService/Sessions"

func (s *Server) sessionRoutes() []*resource {
	return []*resource{
		{pattern: root + "/SessionService", priv: privManager, get: s.sessionService, patch: s.patchSessionService},
		{pattern: sessionsPath, openPut: true, get: s.sessionCollection, post: s.createSession},
		{pattern: sessionsPath + "/{session}", priv: privManager, get: s.sessionResource, del: s.deleteSession},
	}
}

func (s *Server) sessionService(*call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return obj{
		"@odata.id": root + "/SessionService", "@odata.type": "#SessionService.v1_1_9.SessionService",
		"Id": "SessionService", "Name": "Session Service", "ServiceEnabled": true,
		"SessionTimeout": int(s.timeout / time.Second), "Status": statusOK(),
		"Sessions": link(sessionsPath),
	}, nil
}

func (s *Server) patchSessionService(c *call) ([]*message, error) {
	return patch(c, s.sessionService, map[string]setter{
		"SessionTimeout": func(v any) (func() error, error) {
			n, ok := v.(float64)
			if !ok || n != float64(int(n)) {
				return nil, msgPropertyType("SessionTimeout", v)
			}
			if n < 30 || n > 86400 { // DSP0268, SessionService.SessionTimeout
				return nil, msgNotInList("SessionTimeout", v)
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.timeout = time.Duration(n) * time.Second
				return nil
			}, nil
		},
	})
}

func (s *Server) sessionCollection(*call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	var ids []int
	for id := range s.sessions {
		n, err := strconv.Atoi(id)
		if err == nil {
			ids = append(ids, n)
		}
	}
	slices.Sort(ids)
	paths := make([]string, len(ids))
	for i, id := range ids {
		paths[i] = sessionsPath + "/" + strconv.Itoa(id)
	}
	return collection(sessionsPath, "SessionCollection", "Session Collection", paths...), nil
}

func (x *session) body() obj {
	return obj{
		"@odata.id": sessionsPath + "/" + x.id, "@odata.type": "#Session.v1_7_1.Session",
		"Id": x.id, "Name": "User Session", "UserName": x.account.name, "Password": nil,
		"SessionType": "Redfish", "CreatedTime": x.created.UTC().Format(time.RFC3339),
	}
}

func (s *Server) sessionResource(c *call) (obj, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	x := s.sessions[c.vars["session"]]
	if x == nil {
		return nil, msgNotFound(c.path)
	}
	return x.body(), nil
}

// createSession is a login (DSP0266 §13.3.4.2): 201, the token in X-Auth-Token,
// the session in Location.
func (s *Server) createSession(c *call) (reply, error) {
	var cred [2]string
	for i, k := range []string{"UserName", "Password"} {
		v, ok := c.body[k]
		if !ok {
			return reply{}, msgMissing(k)
		}
		if cred[i], ok = v.(string); !ok {
			return reply{}, msgPropertyType(k, "(a value that is no string)")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.login(cred[0], cred[1])
	if a == nil {
		return reply{}, msgBadLogin()
	}
	x, err := s.open(a)
	if err != nil {
		return reply{}, err
	}
	body := x.body()
	header := map[string]string{"X-Auth-Token": x.token, "Location": sessionsPath + "/" + x.id, "ETag": etag(body)}
	if a.change {
		body["@Message.ExtendedInfo"] = []obj{msgPasswordChange(accountsPath + "/" + a.id).info()}
	}
	return reply{http.StatusCreated, body, header}, nil
}

func (s *Server) deleteSession(c *call) (reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := c.vars["session"]
	if s.sessions[id] == nil {
		return reply{}, msgNotFound(c.path)
	}
	delete(s.sessions, id)
	return reply{status: http.StatusNoContent}, nil
}
