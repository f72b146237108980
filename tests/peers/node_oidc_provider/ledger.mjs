// What happened here, as the authorization server saw it? Tests compare this with what the vault believes.

const EVENTS = [
  'authorization.success', 'authorization.error', 'grant.success', 'grant.error', 'grant.revoked',
  'revocation.error', 'introspection.error', 'registration_create.success', 'server_error',
];
const COUNTED = {
  code_exchanges: (e) => e.event === 'grant.success' && e.grant_type === 'authorization_code',
  refreshes: (e) => e.event === 'grant.success' && e.grant_type === 'refresh_token',
  client_credentials: (e) => e.event === 'grant.success' && e.grant_type === 'client_credentials',
  invalid_grant: (e) => e.event === 'grant.error' && e.error === 'invalid_grant',
  invalid_client: (e) => e.event === 'grant.error' && e.error === 'invalid_client',
  families_revoked: (e) => e.event === 'grant.revoked',
  families_revoked_by_reuse: (e) => e.event === 'grant.revoked' && e.route === 'token',
  tokens_revoked: (e) => e.event === 'token.revoked',
};

/** Listen to the provider and answer a function that writes the ledger, of one client or of all. */
export function keepLedger(provider) {
  const events = [];
  for (const event of EVENTS) {
    provider.on(event, (ctx, detail) => events.push(describe(event, ctx, detail)));
  }
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'revocation' && ctx.status === 200) events.push(describe('token.revoked', ctx));
  });
  return (clientId) => {
    const chosen = clientId ? events.filter((e) => e.client_id === clientId) : events;
    const counts = Object.entries(COUNTED).map(([name, counts_]) => [name, chosen.filter(counts_).length]);
    return { counts: Object.fromEntries(counts), events: chosen };
  };
}

function describe(event, ctx, detail) {
  const { client, params = {}, entities = {}, route } = ctx.oidc ?? {};
  return {
    event,
    route,
    client_id: client?.clientId ?? params.client_id,
    client_auth: howAuthenticated(ctx, params),
    grant_type: params.grant_type,
    scope: params.scope,
    resource: params.resource,
    grant_id: typeof detail === 'string' ? detail : entities.Grant?.jti,
    account_id: entities.Account?.accountId,
    error: detail instanceof Error ? detail.error ?? detail.name : undefined,
    reason: detail instanceof Error ? detail.error_detail ?? detail.error_description ?? detail.message : undefined,
  };
}

// The provider takes a secret by header or body alike, whatever was registered; so it is written down which came.
function howAuthenticated(ctx, params) {
  if (ctx.headers?.authorization?.toLowerCase().startsWith('basic ')) return 'client_secret_basic';
  if (params.client_assertion) return 'private_key_jwt';
  return params.client_secret ? 'client_secret_post' : 'none';
}
